//! The steering rules of a running driver, and its XDP program.

use std::ops::Range;
use std::slice;

use super::Supervisor;
use crate::link::{Device, DeviceError};
use crate::steer::{Action, Rule, RuleId};
use crate::xdp::peer_napi::PeerNapiError;
use crate::xdp::program::{ProgramError, RuleState};

/// Why a steering rule was not added. Nothing is changed then.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
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
    /// [`SteeringProgram::add_rules`](crate::xdp::program::SteeringProgram::add_rules). Blocks for some microseconds a
    /// rule.
    ///
    /// # Errors
    ///
    /// [`SteerError`].
    pub async fn add_rules(&mut self, rules: &[Rule], yes: bool) -> Result<Range<u32>, SteerError> {
        // The default route may have come since the start.
        if !yes && let Some(rule) = rules.iter().find(|rule| rule.takes_everything()) {
            for port in &self.ports {
                if Device::query(&port.iface).await?.is_default_route {
                    return Err(SteerError::DefaultRoute {
                        iface: port.iface.clone(),
                        rule: Box::new(*rule),
                    });
                }
            }
        }
        let answers = rules.iter().any(|rule| rule.action() == Action::Answer);
        let mut ids = 0..0;
        for index in 0..self.ports.len() {
            let port = &mut self.ports[index];
            let added = match answers.then(|| port.prepare_answers()) {
                Some(prepared) => prepared.await.map_err(SteerError::from),
                None => Ok(()),
            };
            match added.and_then(|()| Ok(port.program.add_rules(rules)?)) {
                // The ports have had the same rules in the same order, and so give the same numbers.
                Ok(added) => ids = added,
                Err(error) => {
                    self.take_back(index, ids);
                    return Err(error);
                }
            }
        }
        Ok(ids)
    }

    /// Removes rules from the first so many ports: the next one could not have them.
    fn take_back(&mut self, ports: usize, ids: Range<u32>) {
        for port in &mut self.ports[..ports] {
            for id in ids.clone() {
                if let Err(error) = port.program.del_rule(RuleId(id)) {
                    tracing::error!(iface = %port.iface, id, "a rule that was to be taken back stays: {error}");
                }
            }
        }
    }

    /// Removes a steering rule, and returns it. Can block for some milliseconds.
    ///
    /// # Errors
    ///
    /// As for [`SteeringProgram::del_rule`](crate::xdp::program::SteeringProgram::del_rule).
    pub fn del_rule(&mut self, id: RuleId) -> Result<Rule, ProgramError> {
        let removed = self.ports[0].program.del_rule(id)?;
        for port in &mut self.ports[1..] {
            port.program.del_rule(id)?;
        }
        Ok(removed)
    }

    /// The steering rules in the order in which they are tried, with their hits on all interfaces.
    ///
    /// # Errors
    ///
    /// The hits cannot be read.
    pub fn rules(&self) -> Result<Vec<RuleState>, ProgramError> {
        let mut rules = self.ports[0].program.rules()?;
        for port in &self.ports[1..] {
            for (sum, rule) in rules.iter_mut().zip(port.program.rules()?) {
                sum.hits = sum.hits.zip(rule.hits).map(|(sum, hits)| sum + hits);
            }
        }
        Ok(rules)
    }

    /// Replaces the XDP program of each interface by a fresh one, without a gap. Blocks while the kernel checks it.
    ///
    /// # Errors
    ///
    /// As for [`SteeringProgram::reload`](crate::xdp::program::SteeringProgram::reload).
    pub fn reload(&mut self) -> Result<(), ProgramError> {
        self.ports.iter_mut().try_for_each(|port| port.program.reload())
    }
}
