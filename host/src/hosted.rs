//! Any engine as a driver.

use std::sync::Arc;

use async_trait::async_trait;
use quorate_engine::engine::EngineDriver;
use quorate_replicator::{Driver, Env, OpenError, Replicator, StateMachine};

use crate::node::HostNode;
use crate::{HostConfig, VerifyReport, verify};

/// An engine's driver, hosted: what turns a consensus without threads into a [`Replicator`].
#[derive(Clone, Debug)]
pub struct Hosted<D> {
    driver: D,
    config: HostConfig,
}

impl<D: EngineDriver> Hosted<D> {
    /// Hosts `driver` with this configuration.
    pub const fn new(driver: D, config: HostConfig) -> Self {
        Self { driver, config }
    }

    /// Checks a data directory that no node uses, without writing to it: every record of the log, every pair of the
    /// checkpoint, and that replaying the log gives the history that is written in it. `machine` makes an empty state
    /// machine; it is called once or twice.
    ///
    /// # Errors
    ///
    /// The first thing that is wrong, where, and what to do.
    pub fn verify(
        &self,
        config: &D::Config,
        env: &Env,
        machine: &dyn Fn() -> Box<dyn StateMachine>,
    ) -> Result<Vec<VerifyReport>, OpenError> {
        verify::verify(&self.driver, config, &self.config, env, machine)
    }
}

#[async_trait]
impl<D: EngineDriver> Driver for Hosted<D> {
    const NAME: &'static str = D::NAME;
    type Config = D::Config;

    async fn open(
        &self,
        config: D::Config,
        env: Env,
        machine: Box<dyn StateMachine>,
    ) -> Result<Arc<dyn Replicator>, OpenError> {
        Ok(Arc::new(HostNode::open(&self.driver, &config, &self.config, env, machine).await?))
    }
}
