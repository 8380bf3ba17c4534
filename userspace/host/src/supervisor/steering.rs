//! The steering rules of a running driver, and its XDP program.

use std::collections::HashMap;
use std::ops::Range;
use std::slice;

use super::Supervisor;
use super::port::RunningPort;
use crate::link::{Device, DeviceError};
use crate::steer::{Action, Rule, RuleId, TableError};
use crate::xdp::peer_napi::PeerNapiError;
use crate::xdp::program::{ProgramError, RuleState};

/// Why the steering rules were not changed. Of an addition nothing is left then.
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
    /// The XDP program of one of the interfaces; those of the others have done it.
    #[error("the XDP program of {iface}")]
    Iface {
        /// The interface.
        iface: String,
        /// What is wrong there.
        source: Box<ProgramError>,
    },
    /// The interfaces do not count their rules alike, so that a number would mean another rule on each.
    #[error(
        "the rules of {iface} have other numbers than those of {first}: stop the driver and start it again"
    )]
    Numbers {
        /// The interface.
        iface: String,
        /// The first interface.
        first: String,
    },
}

impl SteerError {
    fn on(port: &RunningPort, source: ProgramError) -> Self {
        Self::Iface { iface: port.iface.clone(), source: Box::new(source) }
    }
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
        if answers {
            for port in &mut self.ports {
                port.prepare_answers().await?;
            }
        }
        let mut added: Vec<Range<u32>> = Vec::with_capacity(self.ports.len());
        let failed = self.ports.iter_mut().find_map(|port| match port.program.add_rules(rules) {
            Ok(ids) => {
                added.push(ids);
                None
            }
            Err(error) => Some(SteerError::Program(error)),
        });
        // The ports have had the same rules in the same order, and so give the same numbers.
        let other = added.iter().position(|ids| *ids != added[0]).map(|port| SteerError::Numbers {
            iface: self.ports[port].iface.clone(),
            first: self.iface().to_owned(),
        });
        if let Some(error) = failed.or(other) {
            for (port, ids) in self.ports.iter_mut().zip(added) {
                port.program.take_back(ids);
            }
            return Err(error);
        }
        Ok(added.swap_remove(0))
    }

    /// Removes a steering rule, and returns it. Can block for some milliseconds.
    ///
    /// # Errors
    ///
    /// As for [`SteeringProgram::del_rule`](crate::xdp::program::SteeringProgram::del_rule). Where an interface fails the
    /// rule is removed from the others all the same.
    pub fn del_rule(&mut self, id: RuleId) -> Result<Rule, SteerError> {
        let (mut removed, mut failed) = (None, None);
        for port in &mut self.ports {
            match port.program.del_rule(id) {
                Ok(rule) => removed = Some(rule),
                Err(ProgramError::Rule(TableError::NotFound { .. })) => {}
                Err(error) => {
                    failed.get_or_insert_with(|| SteerError::on(port, error));
                }
            }
        }
        let not_found = || SteerError::Program(TableError::NotFound { id }.into());
        match failed {
            Some(error) => Err(error),
            None => removed.ok_or_else(not_found),
        }
    }

    /// The steering rules in the order in which they are tried, with their hits on all interfaces.
    ///
    /// # Errors
    ///
    /// The hits cannot be read.
    pub fn rules(&self) -> Result<Vec<RuleState>, ProgramError> {
        let mut rules = self.ports[0].program.rules()?;
        for port in &self.ports[1..] {
            add_hits(&mut rules, &port.program.rules()?);
        }
        Ok(rules)
    }

    /// Replaces the XDP program of each interface by a fresh one, without a gap. Blocks while the kernel checks it.
    ///
    /// # Errors
    ///
    /// As for [`SteeringProgram::reload`](crate::xdp::program::SteeringProgram::reload). Where an interface fails the
    /// programs of the others are replaced all the same.
    pub fn reload(&mut self) -> Result<(), SteerError> {
        let reload =
            |port: &mut RunningPort| port.program.reload().map_err(|error| SteerError::on(port, error));
        self.ports.iter_mut().map(reload).fold(Ok(()), Result::and)
    }
}

/// Adds the hits that another interface has counted of the same rules.
fn add_hits(rules: &mut [RuleState], others: &[RuleState]) {
    let hits: HashMap<RuleId, Option<u64>> = others.iter().map(|other| (other.id, other.hits)).collect();
    for rule in rules {
        // Zero where the rule could not be had or is gone there.
        let there = hits.get(&rule.id).copied().unwrap_or(Some(0));
        rule.hits = rule.hits.zip(there).map(|(here, there)| here + there);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(id: u32, hits: Option<u64>) -> RuleState {
        RuleState { id: RuleId(id), rule: "driver:proto=tcp".parse().expect("a rule"), hits }
    }

    #[test]
    fn the_hits_of_several_interfaces_are_added_by_the_numbers_of_the_rules() {
        let mut rules = [state(3, Some(1)), state(1, Some(10)), state(4, Some(5)), state(5, None)];
        add_hits(&mut rules, &[state(1, Some(200)), state(4, None), state(3, Some(100)), state(5, Some(7))]);
        assert_eq!(rules, [state(3, Some(101)), state(1, Some(210)), state(4, None), state(5, None)]);
        add_hits(&mut rules, &[state(1, Some(1))]);
        assert_eq!(rules[..2], [state(3, Some(101)), state(1, Some(211))], "one that lacks a rule");
    }
}
