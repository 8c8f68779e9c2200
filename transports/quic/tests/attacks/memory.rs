//! What this process takes up.

/// Bytes of memory that are there for real (`VmRSS`); none where the system does not say so in this way.
pub(crate) fn resident_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kibibytes: u64 = line.trim().strip_suffix(" kB")?.trim().parse().ok()?;
    Some(kibibytes * 1024)
}

/// Measures growth from one moment on.
#[derive(Debug)]
pub(crate) struct Growth {
    since: Option<u64>,
}

impl Growth {
    pub(crate) fn from_here() -> Self {
        Self { since: resident_bytes() }
    }

    /// How much there is more now; 0 with a word about it where it cannot be measured.
    pub(crate) fn bytes(&self, what: &str) -> u64 {
        let Some((before, now)) = self.since.zip(resident_bytes()) else {
            println!("SKIP {what}: memory cannot be measured without /proc/self/status");
            return 0;
        };
        let growth = now.saturating_sub(before);
        println!("{what}: memory grew by {} KiB, to {} KiB", growth >> 10, now >> 10);
        growth
    }
}
