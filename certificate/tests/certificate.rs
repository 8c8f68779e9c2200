//! A certificate holds for what it was given for, and for nothing else.

mod common;

use common::{Cluster, key, validator};
use quorate_certificate::{
    BodyKind, Certificate, CertificateError, FaultModel, Genesis, Header, Scheme, Signature,
    ValidatorSet, VoteType, body_hash, proposal_bytes, verify_certificate, vote_bytes,
};

const BODY: &[u8] = b"the batch";

fn cluster() -> Cluster {
    Cluster::new(7, Scheme::Ed25519, FaultModel::Byzantine, 4)
}

fn verify(
    cluster: &Cluster,
    certificate: &Certificate,
    header: &Header,
    body: &[u8],
) -> Result<(), CertificateError> {
    let (chain, model) = (cluster.chain(), cluster.genesis.fault_model());
    verify_certificate(&chain, model, cluster.set(), certificate, &header.encode(), body)
        .map(|verified| assert_eq!(verified, *header))
}

/// The bytes of a certificate: what [`Certificate`] refuses to be made of.
fn raw(height: u64, round: u32, value: &[u8], signatures: &[(u64, Signature)]) -> Vec<u8> {
    let mut bytes = vec![1];
    bytes.extend_from_slice(&height.to_le_bytes());
    bytes.extend_from_slice(&round.to_le_bytes());
    bytes.extend_from_slice(value);
    bytes.extend_from_slice(&(signatures.len() as u16).to_le_bytes());
    for (node, signature) in signatures {
        bytes.extend_from_slice(&node.to_le_bytes());
        bytes.extend_from_slice(&(signature.as_bytes().len() as u16).to_le_bytes());
        bytes.extend_from_slice(signature.as_bytes());
    }
    bytes
}

#[test]
fn a_quorum_decides_and_one_fewer_does_not() {
    for scheme in Scheme::ALL {
        for (model, count, needed) in [
            (FaultModel::Byzantine, 1, 1),
            (FaultModel::Byzantine, 3, 3),
            (FaultModel::Byzantine, 4, 3),
            (FaultModel::Byzantine, 7, 5),
            (FaultModel::Crash, 3, 2),
            (FaultModel::Crash, 5, 3),
        ] {
            let cluster = Cluster::new(7, scheme, model, count);
            let header = cluster.first(BodyKind::Frames, BODY);
            let nodes: Vec<u64> = (1..=count.into()).collect();
            for signed in 0..=nodes.len() {
                let certificate = cluster.certificate(&header, 2, &nodes[..signed]);
                let read = Certificate::decode(&certificate.encode()).unwrap();
                assert_eq!(read, certificate);
                let result = verify(&cluster, &certificate, &header, BODY);
                if signed >= needed {
                    assert_eq!(result, Ok(()), "{scheme} {model}: {signed} of {count}");
                } else {
                    let no_quorum = matches!(result, Err(CertificateError::NoQuorum { .. }));
                    assert!(no_quorum, "{scheme} {model}: {signed} of {count}: {result:?}");
                }
            }
        }
    }
}

#[test]
fn it_is_power_that_counts_and_not_heads() {
    let keys: Vec<_> = (1..=4).map(|node| (node, key(Scheme::Ed25519, node as u8))).collect();
    let powers = [10, 1, 1, 1];
    let validators =
        keys.iter().zip(powers).map(|((node, key), power)| validator(*node, power, key)).collect();
    let genesis =
        Genesis::new([7; 16], FaultModel::Byzantine, Scheme::Ed25519, 500, validators).unwrap();
    let cluster = Cluster { genesis, keys };
    let header = cluster.first(BodyKind::Frames, BODY);
    assert_eq!(verify(&cluster, &cluster.certificate(&header, 0, &[1]), &header, BODY), Ok(()));
    let heads = cluster.certificate(&header, 0, &[2, 3, 4]);
    let error = CertificateError::NoQuorum {
        height: 1,
        power: 3,
        total: 13,
        fault_model: FaultModel::Byzantine,
    };
    assert_eq!(verify(&cluster, &heads, &header, BODY), Err(error));
}

#[test]
fn the_same_signature_twice_is_no_certificate() {
    let cluster = cluster();
    let header = cluster.first(BodyKind::Frames, BODY);
    let good = cluster.certificate(&header, 0, &[1, 2, 3]);
    let mut signatures = good.signatures().to_vec();
    signatures[2] = signatures[1].clone();
    assert!(Certificate::new(1, 0, header.id(), signatures.clone()).is_err());
    let problem = Certificate::decode(&raw(1, 0, &header.id(), &signatures)).unwrap_err();
    assert!(problem.problem.contains("node 2 signed it twice"), "{problem}");
    // The same signers in another order would be another encoding of the same thing.
    let mut signatures = good.signatures().to_vec();
    signatures.swap(0, 1);
    assert!(Certificate::decode(&raw(1, 0, &header.id(), &signatures)).is_err());
    assert_eq!(raw(1, 0, &header.id(), good.signatures()), good.encode());
}

#[test]
fn a_signature_under_another_name_does_not_hold() {
    let cluster = cluster();
    let header = cluster.first(BodyKind::Frames, BODY);
    let sign = |node, signer| (node, cluster.precommit(&header, 0, node, signer));
    for (signatures, error) in [
        // The signatures of two nodes, exchanged.
        (
            vec![
                sign(1, 1),
                (2, cluster.precommit(&header, 0, 3, 3)),
                (3, cluster.precommit(&header, 0, 2, 2)),
            ],
            CertificateError::Signature { height: 1, node: 2 },
        ),
        // Node 2 signs in the name of node 3, too.
        (
            vec![sign(1, 1), sign(2, 2), sign(3, 2)],
            CertificateError::Signature { height: 1, node: 3 },
        ),
        // A node that is no validator.
        (
            vec![sign(1, 1), sign(2, 2), sign(9, 3)],
            CertificateError::Signer { height: 1, node: 9, epoch: 0 },
        ),
        // More than a quorum, of which one does not hold.
        (
            vec![sign(1, 1), sign(2, 2), sign(3, 3), sign(4, 1)],
            CertificateError::Signature { height: 1, node: 4 },
        ),
    ] {
        let certificate = Certificate::new(1, 0, header.id(), signatures).unwrap();
        assert_eq!(verify(&cluster, &certificate, &header, BODY), Err(error));
    }
}

#[test]
fn it_holds_in_its_cluster_group_epoch_height_and_round_alone() {
    let cluster = cluster();
    let header = cluster.first(BodyKind::Frames, BODY);
    let good = cluster.certificate(&header, 0, &[1, 2, 3]);
    assert_eq!(verify(&cluster, &good, &header, BODY), Ok(()));
    let moved = |height, round, value| {
        Certificate::new(height, round, value, good.signatures().to_vec()).unwrap()
    };
    let signature = Err(CertificateError::Signature { height: 1, node: 1 });
    assert_eq!(verify(&cluster, &moved(1, 1, header.id()), &header, BODY), signature);

    // The same votes for a header of another height, whose id is that of the certificate.
    let later = Header { height: 2, ..header.clone() };
    let error = CertificateError::Height { certificate: 1, header: 2 };
    assert_eq!(verify(&cluster, &good, &later, BODY), Err(error));
    let error = CertificateError::Signature { height: 2, node: 1 };
    assert_eq!(verify(&cluster, &moved(2, 0, later.id()), &later, BODY), Err(error));

    // Another cluster with the same keys, and another group of this one.
    let other = Cluster::new(8, Scheme::Ed25519, FaultModel::Byzantine, 4);
    assert_eq!(verify(&other, &good, &header, BODY), signature);
    let (chain, model) = (cluster.genesis.chain(1), FaultModel::Byzantine);
    let bytes = header.encode();
    let result = verify_certificate(&chain, model, cluster.set(), &good, &bytes, BODY);
    assert_eq!(result.map(drop), signature);

    // The same validators in a later epoch.
    let validators = cluster.set().validators().to_vec();
    let next = ValidatorSet::new(1, Scheme::Ed25519, validators).unwrap();
    let chain = cluster.chain();
    let error = CertificateError::Validators { height: 1, epoch: 1 };
    assert_eq!(verify_certificate(&chain, model, &next, &good, &bytes, BODY), Err(error));

    // Prevotes are no precommits, and a proposal is no vote.
    let id = header.id();
    let prevotes = cluster.keys.iter().map(|(node, key)| {
        let vote = vote_bytes(&chain, 0, VoteType::Prevote, 1, 0, Some(&id), *node);
        (*node, key.sign(&vote).unwrap())
    });
    let prevotes = Certificate::new(1, 0, id, prevotes.collect()).unwrap();
    assert_eq!(verify(&cluster, &prevotes, &header, BODY), signature);
    let proposals = cluster.keys.iter().map(|(node, key)| {
        let proposal = proposal_bytes(&chain, 0, 1, 0, None, &id, *node);
        (*node, key.sign(&proposal).unwrap())
    });
    let proposals = Certificate::new(1, 0, id, proposals.collect()).unwrap();
    assert_eq!(verify(&cluster, &proposals, &header, BODY), signature);
    let nil = cluster.keys.iter().map(|(node, key)| {
        let vote = vote_bytes(&chain, 0, VoteType::Precommit, 1, 0, None, *node);
        (*node, key.sign(&vote).unwrap())
    });
    let nil = Certificate::new(1, 0, [0; 32], nil.collect()).unwrap();
    let error = CertificateError::Value { height: 1, certificate: [0; 32], header: id };
    assert_eq!(verify(&cluster, &nil, &header, BODY), Err(error));
}

#[test]
fn a_batch_or_header_that_was_not_decided_is_refused() {
    let cluster = cluster();
    let header = cluster.first(BodyKind::Frames, BODY);
    let good = cluster.certificate(&header, 0, &[1, 2, 3]);
    let body = Err(CertificateError::Body { height: 1 });
    for other in [&b"the other"[..], b"the batch\0", b"the batc", b""] {
        assert_eq!(verify(&cluster, &good, &header, other), body);
    }
    // The same bytes, taken for a change of the validators.
    assert_ne!(body_hash(BodyKind::Frames, BODY), body_hash(BodyKind::Members, BODY));
    let stranger = Header { proposer: 9, ..header.clone() };
    let signed = cluster.certificate(&stranger, 0, &[1, 2, 3]);
    let error = CertificateError::Proposer { height: 1, node: 9, epoch: 0 };
    assert_eq!(verify(&cluster, &signed, &stranger, BODY), Err(error));
}

#[test]
fn no_bit_of_certificate_header_or_batch_can_flip() {
    for scheme in Scheme::ALL {
        let cluster = Cluster::new(7, scheme, FaultModel::Byzantine, 4);
        let header = cluster.first(BodyKind::Frames, BODY);
        let certificate = cluster.certificate(&header, 3, &[1, 2, 4]);
        let parts = [certificate.encode(), header.encode(), BODY.to_vec()];
        let verified = |parts: &[Vec<u8>; 3]| {
            let Ok(certificate) = Certificate::decode(&parts[0]) else { return false };
            let (chain, model) = (cluster.chain(), FaultModel::Byzantine);
            let set = cluster.set();
            verify_certificate(&chain, model, set, &certificate, &parts[1], &parts[2]).is_ok()
        };
        assert!(verified(&parts));
        for part in 0..parts.len() {
            // Long signatures differ from short ones in nothing but their length.
            let step = if parts[part].len() > 1000 { 251 } else { 1 };
            for bit in (0..parts[part].len() * 8).step_by(step) {
                let mut flipped = parts.clone();
                flipped[part][bit / 8] ^= 1 << (bit % 8);
                assert!(!verified(&flipped), "{scheme}: part {part}, bit {bit}");
            }
            for length in (0..parts[part].len()).step_by(step) {
                let mut cut = parts.clone();
                cut[part].truncate(length);
                assert!(!verified(&cut), "{scheme}: part {part} cut at {length}");
            }
            let mut longer = parts.clone();
            longer[part].push(0);
            assert!(!verified(&longer), "{scheme}: part {part}");
        }
    }
}

#[test]
fn a_count_that_is_not_there_uses_no_memory() {
    let head = raw(1, 0, &[0; 32], &[]);
    let mut bytes = head.clone();
    let count = bytes.len() - 2;
    bytes[count..].copy_from_slice(&u16::MAX.to_le_bytes());
    assert!(Certificate::decode(&bytes).unwrap_err().problem.contains("65535 signatures"));
    bytes[count..].copy_from_slice(&100u16.to_le_bytes());
    assert!(Certificate::decode(&bytes).unwrap_err().problem.contains("too early"));
}
