//! Members come and go, and nothing is lost with them. Only for engines that change their members.

use std::time::Duration;

use quorate_engine::engine::Admin;
use quorate_replicator::{MemberChange, MemberRole};

use super::{EngineFactory, World, each_seed};

/// A node is added, learns what was decided before it, is promoted, replaces another, and goes.
pub fn members_come_and_go<F: EngineFactory>(factory: &F) {
    if !factory.changes_members() {
        return;
    }
    each_seed("members_come_and_go", factory, |world| {
        let founders = world.nodes();
        (0..10).for_each(|_| world.offer(0));
        world.finish();
        checkpoint_all(world);
        let new = world.newcomer();
        let (id, address) = (world.id(new), format!("host-{}", new + 1));
        let role = MemberRole::Voter;
        change(world, MemberChange::Add { node: id, address: address.clone(), role });
        world.offer(new);
        world.finish();
        let told = world.members_now();
        let there = told.iter().find(|member| member.node == id);
        if there.is_none_or(|member| member.role != role || member.address != address) {
            world.broken(
                new,
                format_args!("who was added is told with address and role, not {told:?}"),
            );
        }
        let next = world.newcomer();
        let replace = MemberChange::Replace {
            old: id,
            new: world.id(next),
            address: format!("host-{}", next + 1),
        };
        change(world, replace);
        world.offer(next);
        world.offer(0);
        world.finish();
        if world.is_member(new) || !world.is_member(next) {
            world.broken(next, "a replacement takes the place of who it replaces");
        }
        change(world, MemberChange::Remove { node: world.id(next) });
        if founders > 1 {
            // Whoever leads may go, too.
            let leader = (0..founders).find(|node| world.proposer(*node) == Some(world.id(*node)));
            let leader = leader.unwrap_or(0);
            change(world, MemberChange::Remove { node: world.id(leader) });
            let other = usize::from(leader == 0);
            world.offer(other);
        }
        world.finish();
    });
}

/// Wishes of every kind, under load and faults: what is agreed stays agreed, and the group goes on.
pub fn members_change_under_faults<F: EngineFactory>(factory: &F) {
    if !factory.changes_members() {
        return;
    }
    each_seed("members_change_under_faults", factory, |world| {
        world.lossy(0.03, 0.02);
        for _ in 0..80 {
            let node = world.any_node();
            match world.random.u32(..20) {
                0 => world.crash(node),
                1..=3 => restart(world, node),
                4 => world.isolate(node, true),
                5 | 6 => world.isolate(node, false),
                7 => {
                    let other = world.any_node();
                    let cut = world.random.bool();
                    world.cut(node, other, cut);
                }
                8 => {
                    let stalled = world.random.bool();
                    world.stall_disk(node, stalled);
                }
                9 => world.checkpoint_trimming(node, 1.0),
                10 => world.read(node),
                11 if world.nodes() < factory.nodes() + 4 => {
                    world.newcomer();
                }
                12..=14 => {
                    let admin = any_wish(world).and_then(|admin| world.worded(admin));
                    match admin {
                        Some(admin @ Admin::Change(MemberChange::Approve { .. })) => {
                            world.wish_everywhere(&admin);
                        }
                        Some(admin) => {
                            world.wish(node, admin);
                        }
                        None => {}
                    }
                }
                _ => (0..world.random.usize(1..4)).for_each(|_| world.offer(node)),
            }
            let passing = match world.random.u32(..5) {
                0 => Duration::from_secs(1),
                _ => Duration::from_micros(world.random.u64(..20_000)),
            };
            world.pass(passing);
        }
    });
}

/// A node whose disk was lost comes back with an empty one. It does not take the place of what was lost: with it, no majority
/// is one. Once it was removed, it can be added.
pub fn a_lost_disk_never_votes_again<F: EngineFactory>(factory: &F) {
    if !factory.changes_members() || factory.nodes() < 3 {
        return;
    }
    each_seed("a_lost_disk_never_votes_again", factory, |world| {
        (0..world.nodes()).for_each(|node| world.offer(node));
        world.finish();
        // As many are left as make no majority, unless what was lost is taken for what it was.
        let nodes = world.nodes();
        let lost = world.any_node();
        let down = nodes - nodes / 2 - 1;
        let stay: Vec<usize> = (0..nodes).filter(|node| *node != lost).collect();
        stay.iter().take(down).for_each(|node| world.crash(*node));
        let left = nodes - 1 - down;
        world.lose_disk(lost);
        let before = world.top();
        stay.iter().skip(down).for_each(|node| world.offer(*node));
        world.pass(Duration::from_secs(5));
        if left <= nodes / 2 && world.top() > before {
            world.broken(lost, "a disk that was lost makes no majority");
        }
        if world.refusal(lost).is_none() {
            world.broken(lost, "a node whose disk was lost says why it does not take part");
        }
        world.finish();
        change(world, MemberChange::Remove { node: world.id(lost) });
        world.start_anew(lost);
        let (node, address) = (world.id(lost), "again".to_owned());
        change(world, MemberChange::Add { node, address, role: MemberRole::Voter });
        world.offer(lost);
        world.finish();
    });
}

/// Makes a change that nothing stands against.
fn change<F: EngineFactory>(world: &mut World<'_, F>, change: MemberChange) {
    let words = change.to_string();
    let admin = world.worded(Admin::Change(change)).expect("its engines change members");
    if let Err(error) = world.insist(&admin) {
        world.broken(0, format_args!("when nothing fails one can {words}, and not: {error}"));
    }
}

fn checkpoint_all<F: EngineFactory>(world: &mut World<'_, F>) {
    (0..world.nodes()).for_each(|node| world.checkpoint_trimming(node, 1.0));
}

/// Starts a node again; with an empty disk if the group has no use for what it has.
fn restart<F: EngineFactory>(world: &mut World<'_, F>, node: usize) {
    let free = !world.is_member(node) && !world.may_be_added(node);
    if free && world.top() > 0 && world.random.u32(..4) == 0 {
        world.lose_disk(node);
    } else {
        world.start(node);
    }
}

fn any_wish<F: EngineFactory>(world: &mut World<'_, F>) -> Option<Admin> {
    let (one, other) = (world.any_node(), world.any_node());
    let (node, other, address) = (world.id(one), world.id(other), format!("host-{one}"));
    let role = if world.random.bool() { MemberRole::Voter } else { MemberRole::Learner };
    let members = world.members_now().len();
    Some(match world.random.u32(..10) {
        0 => Admin::Transfer(node),
        1 => Admin::StepDown,
        2 => Admin::Campaign,
        3..=5 => Admin::Change(MemberChange::Add { node, address, role }),
        6 => Admin::Change(MemberChange::Promote { node }),
        7 if members > 2 => Admin::Change(MemberChange::Remove { node }),
        8 => Admin::Change(MemberChange::Replace { old: other, new: node, address }),
        _ => return None,
    })
}
