//! A group that goes on from what one replica had, beside the group that it was a member of.

use quorate_host::SwitchOptions;
use quorate_replicator::{Consistency, GroupId};

use crate::life::{Kind, LONG, Told, node, shard};
use crate::refusals::{cluster, home_of};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_groups_from_one_do_not_hear_each_other() {
    let cluster = cluster(3).open().await;
    let mut told = Told::new(100);
    let one = cluster.node(node(1));
    told.open_session(&one).await;
    told.put(&one, 30).await;
    drop(one);
    cluster.stop(node(1)).await;
    let home = home_of(&cluster, 1);
    let mut options = SwitchOptions::default();
    options.from_this_replica = true;
    home.switch(Kind::Local, &options).unwrap();
    home.switch(Kind::Raft, &SwitchOptions::default()).unwrap();

    // On the network of the others, which go on, and which it is configured to greet.
    let mut theirs = told.clone();
    let alone = cluster.start(node(1)).await.unwrap();
    for to in [2, 3, 2, 3] {
        told.put(&alone, 20).await;
        theirs.put(&cluster.node(node(2)), 20).await;
        // Who is to lead asks all voters, and the one that left is one of them.
        let moved = cluster.node(node(2)).transfer(GroupId::new(0), node(to), LONG).await;
        assert!(moved.is_ok(), "{moved:?}");
    }
    told.repeat(&alone).await;
    theirs.repeat(&cluster.node(node(3))).await;
    alone.read_barrier(&shard(), Consistency::Linearizable, LONG).await.unwrap();
    let here = alone.status().groups.remove(0);
    assert_eq!((here.members, here.leader), (vec![node(1)], Some(node(1))));
    let there = cluster.node(node(2)).status().groups.remove(0);
    assert_eq!(there.members, [node(1), node(2), node(3)]);
    assert_ne!(there.leader, Some(node(1)));
    cluster.close().await;
}
