//! Any engine as a driver.

use std::sync::Arc;

use async_trait::async_trait;
use quorate_engine::engine::EngineDriver;
use quorate_replicator::{Driver, Env, OpenError, Replicator, StateMachine};

use crate::node::HostNode;
use crate::switch::Side;
use crate::{
    HostConfig, Leaving, MakeMachine, SwitchError, SwitchOptions, SwitchReport, VerifyReport,
    verify,
};

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

    /// Replays what a stopped node has stored with this driver, to the last batch that is known to be decided, for another driver to
    /// [take over](Self::take_over). Holds the directory, and changes nothing in it but what every start changes. `machine` makes an
    /// empty state machine for a group.
    ///
    /// # Errors
    ///
    /// See [`SwitchError`].
    pub fn leave(
        &self,
        config: &D::Config,
        env: &Env,
        machine: MakeMachine<'_>,
        options: &SwitchOptions,
    ) -> Result<Leaving, SwitchError> {
        self.side(config, env, machine).leave(options)
    }

    /// Takes over what another driver [left](Self::leave): copies the directory, writes the new data, opens them, compares them, and puts
    /// them in force for all groups together. This node is the only voting member then. A process that is killed in between leaves the
    /// old data in force or the new ones. `agrees` is asked before they are put in force, when `machine` has made a machine for each
    /// group and it holds the state of the new data: what the caller has to compare is compared there.
    ///
    /// # Errors
    ///
    /// See [`SwitchError`], and what `agrees` says.
    pub fn take_over(
        &self,
        config: &D::Config,
        env: &Env,
        machine: MakeMachine<'_>,
        leaving: Leaving,
        agrees: &dyn Fn() -> Result<(), SwitchError>,
    ) -> Result<SwitchReport, SwitchError> {
        self.side(config, env, machine).take_over(leaving, agrees)
    }

    fn side<'a>(
        &'a self,
        driver_config: &'a D::Config,
        env: &'a Env,
        machine: MakeMachine<'a>,
    ) -> Side<'a, D> {
        Side { driver: &self.driver, driver_config, config: &self.config, env, machine }
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
