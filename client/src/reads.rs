//! Reads of keys and values, answered by a node in another process.

use async_trait::async_trait;
use bytes::Bytes;
use quorate_replicator::ShardKey;
use quorate_shard::kv::{
    Changes, Got, KvReadError, NamespacePage, OrgPage, OrgReadOptions, Page, ReadOptions, Reads,
    Scan,
};

use crate::protocol::Request;
use crate::remote::{Refusal, Remote};

impl Refusal for KvReadError {
    fn is_of_node(&self) -> bool {
        match self {
            Self::Read(error) => error.is_of_node(),
            _ => false,
        }
    }
}

/// How many of something are asked for, as it travels.
fn count(max: usize) -> u64 {
    u64::try_from(max).unwrap_or(u64::MAX)
}

#[async_trait]
impl Reads for Remote {
    async fn get(
        &self,
        shard: &ShardKey,
        key: &[u8],
        options: ReadOptions,
    ) -> Result<Got, KvReadError> {
        let (shard, key) = (shard.clone(), Bytes::copy_from_slice(key));
        self.read(Request::Get { shard, key, options }, options.within).await
    }

    async fn scan(
        &self,
        shard: &ShardKey,
        scan: &Scan,
        options: ReadOptions,
    ) -> Result<Page, KvReadError> {
        let (shard, scan) = (shard.clone(), scan.clone());
        self.read(Request::Scan { shard, scan, options }, options.within).await
    }

    async fn changes(
        &self,
        shard: &ShardKey,
        from: u64,
        prefix: &[u8],
        max: usize,
        options: ReadOptions,
    ) -> Result<Changes, KvReadError> {
        let (shard, prefix) = (shard.clone(), Bytes::copy_from_slice(prefix));
        let request = Request::Changes { shard, from, prefix, max: count(max), options };
        self.read(request, options.within).await
    }

    async fn orgs(
        &self,
        after: Option<&str>,
        max: usize,
        options: OrgReadOptions,
    ) -> Result<Vec<String>, KvReadError> {
        let (after, within) = (after.map(String::from), options.within);
        self.read(Request::Orgs { after, max: count(max), options }, within).await
    }

    async fn namespaces(
        &self,
        org: &str,
        after: Option<&str>,
        max: usize,
        options: OrgReadOptions,
    ) -> Result<NamespacePage, KvReadError> {
        let (org, after, within) = (org.to_owned(), after.map(String::from), options.within);
        self.read(Request::Namespaces { org, after, max: count(max), options }, within).await
    }

    async fn scan_org(
        &self,
        org: &str,
        scan: &Scan,
        options: OrgReadOptions,
    ) -> Result<OrgPage, KvReadError> {
        let (org, scan, within) = (org.to_owned(), scan.clone(), options.within);
        self.read(Request::ScanOrg { org, scan, options }, within).await
    }
}
