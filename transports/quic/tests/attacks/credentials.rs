//! A1 to A5, A7 to A9: whoever shows something else than the certificate of a member, in either direction.

use quorate_replicator::{ClusterId, NodeId};
use quorate_transport_quic::{Authority, Validity};
use rcgen::ExtendedKeyUsagePurpose as Usage;

use super::attacker::{Line, Papers, Signer, dial, listener, tls_client, tls_server};
use super::honest::{BAD, GOOD, HONEST, Honest, STRANGER};
use super::wire::{self, Hello};
use crate::cluster::limits;
use crate::cluster::receiver::explained;

/// Says everything that a peer would say, at once and without waiting for an answer.
async fn speak(line: &Line, hello: &Hello) {
    let message = [wire::channel(0), wire::frame(wire::MESSAGE, b"vote for me")].concat();
    let _ = line.tell(&message).await;
    let _ = line.ask(&hello.frame()).await;
    let _ = line.ask(&wire::offer(1, 1, b"")).await;
}

/// Dials with these papers, and expects the words at both ends: there is nothing to hide from whom we refuse.
async fn dials(honest: &Honest, case: &str, papers: Option<&Papers>, words: &str) {
    // TLS of the one who dials ends before the other end has looked at the certificate.
    if let Ok(line) = dial(honest.at(), tls_client(papers)).await {
        speak(&line, &honest.hello()).await;
        let end = line.end().await;
        println!("{case}: {end}");
    }
    honest.explains(case, words).await;
}

/// Is dialled, shows these papers and would take anybody.
async fn is_dialled(honest: &Honest, case: &str, papers: &Papers, words: &str) {
    let attacker = listener(tls_server(papers));
    let bad = NodeId::new(BAD);
    honest.node.remove_peer(bad);
    honest.node.add_peer(bad, attacker.local_addr().unwrap().to_string());
    let serving = tokio::spawn({
        let (attacker, hello) = (attacker.clone(), Hello { to: HONEST, ..honest.hello() });
        async move {
            while let Some(incoming) = attacker.accept().await {
                let Ok(connecting) = incoming.accept() else { continue };
                let Ok(connection) = connecting.await else { continue };
                let line = Line { connection, _endpoint: attacker.clone() };
                speak(&line, &hello).await;
                if let Ok((mut send, _)) = line.connection.accept_bi().await {
                    let _ = send.write_all(&hello.frame()).await;
                }
            }
        }
    });
    explained(&honest.node, BAD, words).await;
    serving.abort();
    honest.node.remove_peer(bad);
    honest.node.add_peer(bad, honest.nowhere());
    println!("{case}: {words}");
}

#[tokio::test]
async fn a1_who_shows_no_certificate_is_refused() {
    let honest = Honest::open(limits());
    dials(&honest, "A1", None, "shows no certificate; it needs one of this cluster's authority")
        .await;
    honest.stands("A1").await;
}

#[tokio::test]
async fn a2_what_another_authority_signed_is_refused() {
    let honest = Honest::open(limits());
    let foreign = Signer::of(&Authority::create("foreign", Validity::days(1)).unwrap());
    // Called as this cluster's own.
    let namesake = Signer::of(&Authority::create("test", Validity::days(1)).unwrap());
    let another = "signed by another CA";
    let claim = honest.claim(BAD);
    for (case, papers, words) in [
        ("A2 foreign", claim.signed_by(&foreign), "expected CN=quorate authority test"),
        ("A2 namesake", claim.signed_by(&namesake), another),
        ("A2 by itself", claim.signed_by_itself(), another),
        ("A2 by a member", claim.signed_by(&Signer::with(&honest.papers(GOOD))), another),
    ] {
        dials(&honest, case, Some(&papers), words).await;
        is_dialled(&honest, case, &papers, words).await;
    }
    honest.stands("A2").await;
}

#[tokio::test]
async fn a2_a_member_cannot_sign_for_others() {
    let honest = Honest::open(limits());
    let member = honest.papers(GOOD);
    let mut papers = honest.claim(BAD).signed_by(&Signer::with(&member));
    // The whole chain up to the authority is there, and each signature in it is right.
    papers.chain.push(member.chain[0].clone());
    dials(&honest, "A2 chain", Some(&papers), "n2's certificate is").await;
    is_dialled(&honest, "A2 chain", &papers, "n2's certificate is").await;
    // Not even one that says it may: the authority's own certificate allows none below it.
    let member = honest.claim(GOOD).with(|claim| claim.authority = true);
    let member = member.signed_by(&honest.signer());
    let mut papers = honest.claim(BAD).signed_by(&Signer::with(&member));
    papers.chain.push(member.chain[0].clone());
    dials(&honest, "A2 deeper chain", Some(&papers), "n2's certificate is").await;
    honest.stands("A2 chains").await;
}

#[tokio::test]
async fn a2_a_certificate_without_its_key_is_refused() {
    let honest = Honest::open(limits());
    // Certificates are shown to everybody; the key is what proves something.
    let mut papers = honest.papers(GOOD);
    papers.key = honest.papers(BAD).key;
    dials(&honest, "A2 without the key", Some(&papers), "BadSignature").await;
    honest.stands("A2 without the key").await;
}

#[tokio::test]
async fn a3_what_does_not_hold_now_is_refused() {
    let honest = Honest::open(limits());
    for (case, holds, words) in [
        ("A3 expired", (-600, -60), "n2's certificate expired"),
        ("A3 not yet", (600, 3600), "n2's certificate is not valid before"),
    ] {
        let papers = honest.claim(BAD).with(|claim| claim.holds = holds);
        let papers = papers.signed_by(&honest.signer());
        dials(&honest, case, Some(&papers), words).await;
        is_dialled(&honest, case, &papers, words).await;
    }
    honest.stands("A3").await;
}

#[tokio::test]
async fn a4_what_was_issued_for_another_use_is_refused() {
    let honest = Honest::open(limits());
    let papers = |usages: &[Usage]| {
        let claim = honest.claim(BAD).with(|claim| claim.usages = usages.into());
        claim.signed_by(&honest.signer())
    };
    let server = papers(&[Usage::ServerAuth]);
    let client = papers(&[Usage::ClientAuth]);
    let neither = papers(&[Usage::CodeSigning]);
    let none = papers(&[]);
    dials(&honest, "A4 server dials", Some(&server), "may not be used for this").await;
    dials(&honest, "A4 neither dials", Some(&neither), "may not be used for this").await;
    dials(&honest, "A4 none dials", Some(&none), "lacks the extended key usage clientAuth").await;
    is_dialled(&honest, "A4 client", &client, "may not be used for this").await;
    is_dialled(&honest, "A4 none", &none, "lacks the extended key usage serverAuth").await;
    honest.stands("A4").await;
}

#[tokio::test]
async fn a5_who_is_no_member_is_refused() {
    let honest = Honest::open(limits());
    let stranger = honest.papers(STRANGER);
    dials(&honest, "A5", Some(&stranger), "n77 is not a peer of n9; add it to the members").await;
    is_dialled(&honest, "A5", &stranger, "n77").await;
    // Not even with a greeting of somebody who is one.
    let itself = honest.papers(HONEST);
    dials(&honest, "A5 itself", Some(&itself), "this node's own certificate").await;
    // A member that was one, on a connection that it still has.
    let bad = honest.betrayed(&honest.papers(BAD)).await;
    honest.node.remove_peer(NodeId::new(BAD));
    let end = bad.end().await;
    assert!(end.contains("n2 is not a peer of n9 any more"), "{end}");
    dials(&honest, "A5 removed", Some(&honest.papers(BAD)), "n2 is not a peer of n9").await;
    honest.stands("A5").await;
}

#[tokio::test]
async fn a5_a_certificate_that_names_nobody_or_two_is_refused() {
    let honest = Honest::open(limits());
    let cluster = honest.cluster.id;
    let bad = format!("quorate://{cluster}/node/{BAD}");
    let good = format!("quorate://{cluster}/node/{GOOD}");
    for (case, uris, words) in [
        ("A5 nobody", vec![], "does not name one node or client"),
        ("A5 two", vec![bad.clone(), good], "does not name one node or client"),
        ("A5 second reading", vec![format!("quorate://{cluster}/node/02")], "is neither"),
        ("A5 spaces", vec![format!("{bad} ")], "is neither"),
        ("A5 other scheme", vec![format!("spiffe://{cluster}/node/{BAD}")], "is neither"),
    ] {
        let claim = honest.claim(BAD).with(|claim| claim.uris = uris);
        let papers = claim.signed_by(&honest.signer());
        dials(&honest, case, Some(&papers), words).await;
        is_dialled(&honest, case, &papers, words).await;
    }
    honest.stands("A5 names").await;
}

#[tokio::test]
async fn a7_a_client_cannot_speak_as_a_peer() {
    let honest = Honest::open(limits());
    let client = honest.claim(BAD).with(|claim| {
        claim.uris = vec![format!("quorate://{}/client/n2", honest.cluster.id)];
        claim.usages = vec![Usage::ClientAuth];
    });
    let papers = client.signed_by(&honest.signer());
    dials(&honest, "A7", Some(&papers), "client n2 cannot speak as a node").await;
    // One that may be dialled too, by mistake of whoever issued it.
    let papers = client.with(|claim| claim.usages.push(Usage::ServerAuth));
    let papers = papers.signed_by(&honest.signer());
    dials(&honest, "A7 both uses", Some(&papers), "client n2 cannot speak as a node").await;
    is_dialled(&honest, "A7", &papers, "a node was dialled, and the client n2 answered").await;
    honest.stands("A7").await;
}

#[tokio::test]
async fn a8_a_node_of_another_cluster_of_the_same_authority_is_refused() {
    let honest = Honest::open(limits());
    let other = ClusterId::new([0xee; 16]);
    let claim = super::attacker::Claim::node(other, BAD);
    let papers = claim.signed_by(&honest.signer());
    let words = format!("the certificate of n2 is for cluster {other}, this is cluster");
    dials(&honest, "A8", Some(&papers), &words).await;
    is_dialled(&honest, "A8", &papers, &words).await;
    honest.stands("A8").await;
}

#[tokio::test]
async fn a9_who_speaks_another_protocol_is_refused() {
    let honest = Honest::open(limits());
    let papers = honest.papers(BAD);
    let words = "does not speak quorate/1; upgrade the older node";
    for alpn in [&b"quorate/2"[..], b"quorate/", b"h3", b"quorate/1\0"] {
        let mut tls = tls_client(Some(&papers));
        tls.alpn_protocols = vec![alpn.into()];
        let error = dial(honest.at(), tls).await.unwrap_err();
        println!("A9 {:?}: {error}", String::from_utf8_lossy(alpn));
        honest.explains("A9", words).await;
    }
    let mut tls = tls_client(Some(&papers));
    tls.alpn_protocols.clear();
    let end = match dial(honest.at(), tls).await {
        Ok(line) => {
            speak(&line, &honest.hello()).await;
            line.end().await
        }
        Err(error) => error,
    };
    println!("A9 none: {end}");
    let count = |honest: &Honest| honest.node.status().refused;
    assert!(count(&honest) >= 5, "each of them was refused: {:#?}", honest.node.status().refusals);

    // And who is dialled and speaks another one.
    let mut tls = tls_server(&papers);
    tls.alpn_protocols = vec![b"quorate/2".to_vec()];
    let attacker = listener(tls);
    honest.node.add_peer(NodeId::new(BAD), attacker.local_addr().unwrap().to_string());
    let serving = tokio::spawn(async move {
        while let Some(incoming) = attacker.accept().await {
            let _ = incoming.await;
        }
    });
    explained(&honest.node, BAD, "does not speak quorate/1").await;
    serving.abort();
    honest.stands("A9").await;
}

#[tokio::test]
async fn what_a_certificate_says_breaks_no_line_of_a_log() {
    let honest = Honest::open(limits());
    let claim = honest.claim(BAD).with(|claim| {
        claim.common_name = "n2\nERROR all is lost\u{1b}[31m".into();
        claim.uris.clear();
    });
    let foreign = claim.signed_by_itself();
    dials(&honest, "names", Some(&foreign), "?ERROR all is lost").await;
    let line = dial(honest.at(), tls_client(Some(&honest.papers(BAD)))).await.unwrap();
    line.connection.close(0_u32.into(), b"bye\nERROR \x1b[2J");
    honest.explains("words", "bye?ERROR").await;
    for refusal in honest.node.status().refusals {
        let reason = refusal.reason;
        assert!(!reason.contains(char::is_control), "{reason:?}");
    }
    honest.stands("words").await;
}
