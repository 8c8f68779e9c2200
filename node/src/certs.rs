//! `quorate certs`: what stands in certificates, and new ones in their place.

use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use quorate::builtin;
use quorate::certificates::{CertificateInfo, Subject};
use serde_json::json;

use crate::cli::{Global, Output, RenewArgs};
use crate::cluster::Cluster;
use crate::exit::{Exit, Failure};
use crate::print_as;
use crate::target::Way;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// Prints the certificates of these files, or else those that the client or the node of this command line uses.
pub(crate) fn show(global: &Global, files: &[PathBuf]) -> Result<Exit, Failure> {
    let files = match files {
        [] => configured(global)?,
        files => files.to_vec(),
    };
    let now = SystemTime::now();
    let mut exit = Exit::Done;
    let mut shown = Vec::new();
    for file in files {
        for info in CertificateInfo::read(&file).map_err(Failure::usage)? {
            if info.left(now).is_zero() || info.not_before > now {
                exit = Exit::Problems;
            }
            shown.push((file.display().to_string(), info));
        }
    }
    print_as(
        global.output,
        || serde_json::Value::from_iter(shown.iter().map(|(file, info)| as_json(file, info, now))),
        || {
            let texts = shown.iter().map(|(file, info)| as_text(file, info, now));
            texts.collect::<Vec<_>>().join("\n\n")
        },
    )?;
    Ok(exit)
}

/// Puts a new certificate with a new key in the place of an old one.
pub(crate) fn renew(arguments: &RenewArgs, output: Output) -> Result<Exit, Failure> {
    let RenewArgs { authority, node, client, out, validity_days } = arguments;
    let cluster = Cluster::load(authority)?;
    let subject = match (node, client) {
        (Some(node), _) => {
            if !cluster.nodes.contains_key(node) {
                return Err(Failure::usage(format!(
                    "{} has no {node}; `quorate init-node` makes what a new node needs",
                    authority.display()
                )));
            }
            Subject::node(cluster.id, *node)
        }
        (None, client) => {
            let client = client.as_deref().unwrap_or_default();
            Subject::client(cluster.id, client).map_err(Failure::usage)?
        }
    };
    let name = subject.short_name();
    let directory = out.clone().unwrap_or_else(|| authority.join(&name));
    let maker = cluster.maker(authority)?;
    if directory.exists() {
        let old = directory.join(if node.is_some() { "node.pem" } else { "client.pem" });
        let found = CertificateInfo::read(&old).map_err(Failure::usage)?;
        if found[0].subject.as_ref() != Some(&subject) {
            return Err(Failure::usage(format!(
                "{} is of {}, not of {name} in this cluster; name {name}'s directory with --out",
                old.display(),
                found[0].common_name
            )));
        }
        maker.renew(&directory, &subject, *validity_days)?;
    } else if node.is_some() {
        return Err(Failure::usage(format!(
            "{} does not exist; name {name}'s directory with --out",
            directory.display()
        )));
    } else {
        maker.client(&directory, &name, *validity_days)?;
    }
    let directory = directory.display();
    let done = match node {
        Some(_) => format!(
            "{directory} has a new certificate and a new key. Where the node runs from a copy, copy node.pem and node.key\n\
             there; then make it use them, without a restart: kill -HUP its process"
        ),
        None => format!("{directory} has a new certificate and a new key for client {name}"),
    };
    print_as(
        output,
        || json!({ "directory": directory.to_string(), "subject": subject.to_string() }),
        || done,
    )?;
    Ok(Exit::Done)
}

/// The files that a command with these options would use.
fn configured(global: &Global) -> Result<Vec<PathBuf>, Failure> {
    Ok(match Way::of(global)? {
        Way::Here(config) => {
            let quic = builtin::quic(&config).map_err(Failure::usage)?;
            vec![quic.certificate_file, quic.authority_file]
        }
        Way::There(client) => vec![client.certificate_file, client.authority_file],
    })
}

fn as_json(file: &str, info: &CertificateInfo, now: SystemTime) -> serde_json::Value {
    json!({
        "file": file,
        "name": info.common_name,
        "subject": info.subject.as_ref().map(ToString::to_string),
        "issuer": info.issuer,
        "not_before": moment(info.not_before),
        "not_after": moment(info.not_after),
        "left_s": info.left(now).as_secs(),
        "renew": info.is_late(now),
    })
}

fn as_text(file: &str, info: &CertificateInfo, now: SystemTime) -> String {
    let subject = match &info.subject {
        Some(subject) => subject.to_string(),
        None => info.common_name.clone(),
    };
    format!(
        "{file}\nsubject      {subject}\nissuer       {}\nholds from   {}\nholds until  {}, {}",
        info.issuer,
        moment(info.not_before),
        moment(info.not_after),
        left(info, now),
    )
}

/// How much longer a certificate holds, in words.
pub(crate) fn left(info: &CertificateInfo, now: SystemTime) -> String {
    let renew = if info.is_late(now) { "; renew it with `quorate certs renew`" } else { "" };
    let left = info.left(now);
    if info.not_before > now {
        let wait = info.not_before.duration_since(now).unwrap_or_default();
        format!("and not yet: it begins {} from now; compare the clocks", words(wait))
    } else if left.is_zero() {
        let ago = now.duration_since(info.not_after).unwrap_or_default();
        format!("expired {} ago{renew}", words(ago))
    } else {
        format!("{} left{renew}", words(left))
    }
}

fn words(span: Duration) -> String {
    match span.as_secs() / DAY.as_secs() {
        0 => humantime::format_duration(Duration::from_secs(span.as_secs())).to_string(),
        1 => "1 day".into(),
        days => format!("{days} days"),
    }
}

pub(crate) fn moment(at: SystemTime) -> String {
    humantime::format_rfc3339_seconds(at).to_string()
}
