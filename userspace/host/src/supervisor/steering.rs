//! The steering rules of a running driver, and its XDP program.

use std::ops::Range;
use std::slice;

use super::Supervisor;
use crate::link::attachment::XdpHook;
use crate::link::peer_napi::{PeerNapi, PeerNapiError};
use crate::link::program::{ProgramError, RuleState};
use crate::link::{Device, DeviceError};
use crate::steer::{Action, Rule, RuleId};

/// Why a steering rule was not added. Nothing is changed then.
#[derive(Debug, thiserror::Error)]
pub enum SteerError {
    /// The rule would cut the host off.
    #[error(
        "{iface} carries the default route: the rule `{rule}` would cut this host off; add --yes if that is meant"
    )]
    DefaultRoute {
        /// The interface.
        iface: String,
        /// The rule.
        rule: Box<Rule>,
    },
    /// The interface cannot be asked whether it carries the default route.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// The other end of the pair is not ready for answers of the XDP program.
    #[error(transparent)]
    PeerNapi(#[from] PeerNapiError),
    /// The rule, or the XDP program.
    #[error(transparent)]
    Program(#[from] ProgramError),
}

impl Supervisor {
    /// Adds a steering rule, which counts from the next frame on. `yes` allows one that takes everything on the
    /// interface of the default route. Can block for some milliseconds.
    ///
    /// # Errors
    ///
    /// [`SteerError`].
    pub async fn add_rule(&mut self, rule: Rule, yes: bool) -> Result<RuleId, SteerError> {
        self.add_rules(slice::from_ref(&rule), yes).await.map(|ids| RuleId(ids.start))
    }

    /// Adds steering rules, all or none; see
    /// [`SteeringProgram::add_rules`](crate::link::program::SteeringProgram::add_rules). Blocks for some microseconds a
    /// rule.
    ///
    /// # Errors
    ///
    /// [`SteerError`].
    pub async fn add_rules(&mut self, rules: &[Rule], yes: bool) -> Result<Range<u32>, SteerError> {
        // The default route may have come since the start.
        if !yes
            && let Some(rule) = rules.iter().find(|rule| rule.takes_everything())
            && Device::query(&self.iface).await?.is_default_route
        {
            return Err(SteerError::DefaultRoute { iface: self.iface.clone(), rule: Box::new(*rule) });
        }
        if rules.iter().any(|rule| rule.action() == Action::Answer) {
            self.prepare_answers().await?;
        }
        Ok(self.program.add_rules(rules)?)
    }

    /// Removes a steering rule, and returns it. Can block for some milliseconds.
    ///
    /// # Errors
    ///
    /// As for [`SteeringProgram::del_rule`](crate::link::program::SteeringProgram::del_rule).
    pub fn del_rule(&mut self, id: RuleId) -> Result<Rule, ProgramError> {
        self.program.del_rule(id)
    }

    /// The steering rules in the order in which they are tried.
    ///
    /// # Errors
    ///
    /// The hits cannot be read.
    pub fn rules(&self) -> Result<Vec<RuleState>, ProgramError> {
        self.program.rules()
    }

    /// Replaces the XDP program by a fresh one, without a gap. Blocks while the kernel checks it.
    ///
    /// # Errors
    ///
    /// As for [`SteeringProgram::reload`](crate::link::program::SteeringProgram::reload).
    pub fn reload(&mut self) -> Result<(), ProgramError> {
        self.program.reload()
    }

    /// Makes the other end of a veth pair ready to hear answers of the XDP program. It stays so until the driver stops.
    pub(super) async fn prepare_answers(&mut self) -> Result<(), PeerNapiError> {
        // In skb mode they go through the peer's ordinary receive path.
        if self.peer_napi.is_none() && self.info.attached.mode == XdpHook::Native {
            self.peer_napi = PeerNapi::prepare(&self.info.device).await?;
        }
        Ok(())
    }
}
