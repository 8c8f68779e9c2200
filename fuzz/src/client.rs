//! What clients ask, and what they are answered.

use quorate_client::fuzzing;
use quorate_shard::envelope;

use crate::input::{Input, Written, settles};

pub(crate) fn judge(bytes: &[u8]) {
    let mut input = Input(bytes);
    match input.u8() {
        0 => drop(settles(input.0, fuzzing::asked)),
        1 => {
            let messages = input.pieces();
            let sent: usize = messages.iter().map(|message| message.len()).sum();
            let answers = fuzzing::answers(messages.into_iter());
            let got: usize = answers.iter().map(|(_, body)| body.len()).sum();
            assert!(got <= sent, "more is answered than was sent");
        }
        what => drop(settles(input.0, |body| fuzzing::answer(what, body))),
    }
}

pub(crate) fn seeds() -> Vec<Vec<u8>> {
    // Requests are `[name, fields]`, as MessagePack has them; these are the names.
    let names = [
        "Watch",
        "Subscribe",
        "Taken",
        "Propose",
        "ProposeMany",
        "Decision",
        "Barrier",
        "Get",
        "Scan",
        "Changes",
        "Orgs",
        "Namespaces",
        "ScanOrg",
        "ChangeMembers",
        "Transfer",
        "ProposeProven",
        "ProposeManyProven",
        "MemberBatches",
    ];
    let asked = |body: Vec<u8>| [&[0; 1][..], &[7; 8], &[0xd0, 7, 0, 0], &body].concat();
    let encoded = |value: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = Vec::new();
        value(&mut bytes);
        bytes
    };
    let mut seeds: Vec<_> = names
        .iter()
        .map(|name| asked(encoded(&|bytes| envelope::write_body(bytes, name))))
        .collect();
    seeds.extend(names.iter().map(|name| {
        let fields = ((("acme", "orders"), (0, 0)), (1_u64, 2_u64), "acme", (None::<u64>, 3_u64));
        let fields = encoded(&|bytes| envelope::write_body(bytes, &fields));
        asked([&[0x81][..], &encoded(&|bytes| envelope::write_body(bytes, name)), &fields].concat())
    }));
    let part = |more: u8| [&[5; 8][..], &[more], b"a part"].concat();
    let parts = Written::default().u8(1).piece(&part(1)).piece(&part(1)).piece(&part(0));
    seeds.push(parts.0);
    // Group, index, head and proof, before the answer that is about them.
    let fields = [&[0x94, 0, 7, 0xc4, 4][..], b"head", &[0xc4, 5], b"proof"].concat();
    let height = [&[0; 8][..], &[2], &fields].concat();
    seeds.push(Written::default().u8(1).piece(&height).piece(&part(0)).0);
    for (what, name) in
        [(4, "Ok"), (4, "Err"), (5, "Ok"), (6, "Batch"), (6, "End"), (7, "Status"), (7, "Event")]
    {
        let body =
            [&[0x81][..], &encoded(&|bytes| envelope::write_body(bytes, &name)), &[0x90]].concat();
        seeds.push([&[what][..], &body].concat());
    }
    seeds
}
