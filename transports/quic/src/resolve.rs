//! Finds the addresses that a `host:port` stands for.

use std::net::SocketAddr;

/// All addresses of `host:port`, at least one; or why there are none, in words that follow the address.
pub(crate) async fn lookup(address: &str) -> Result<Vec<SocketAddr>, String> {
    let found = tokio::net::lookup_host(address)
        .await
        .map_err(|error| format!("cannot be found: {error}; write it as host:port"))?;
    let found: Vec<_> = found.collect();
    if found.is_empty() {
        return Err("has no address; check the name".into());
    }
    Ok(found)
}

/// The address to dial, of the kind that a socket at `local` can send to.
pub(crate) fn fitting(found: &[SocketAddr], local: SocketAddr) -> Result<SocketAddr, String> {
    let kind = if local.is_ipv4() { "IPv4" } else { "IPv6" };
    let fitting = found.iter().find(|at| at.is_ipv4() == local.is_ipv4());
    // A socket for IPv6 reaches IPv4 too, where the system says so.
    let mapped = found.iter().filter(|_| !local.is_ipv4()).find_map(|at| match at {
        SocketAddr::V4(v4) => Some(SocketAddr::from((v4.ip().to_ipv6_mapped(), v4.port()))),
        SocketAddr::V6(_) => None,
    });
    fitting.copied().or(mapped).ok_or_else(|| {
        format!(
            "has no {kind} address, and this node listens on {local}; listen on [::] to reach both"
        )
    })
}
