//! The QUIC transport passes the public suite.

mod cluster;

#[tokio::test]
async fn on_one_thread() {
    quorate_conformance::transport::transport(cluster::Factory(cluster::limits())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_many_threads() {
    quorate_conformance::transport::transport(cluster::Factory(cluster::limits())).await;
}
