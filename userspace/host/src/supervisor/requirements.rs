//! What a driver needs, checked before anything is attached.

use super::config::RunConfig;
use crate::steer::{Action, Rule, RuleError};
use netdext::driver::Requirements;
use netdext::packet::{FrameSize, HEADROOM};

/// What a driver needs and can't have.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RequirementError {
    /// It takes another number of interfaces.
    #[error(
        "the driver {driver} takes {}, not {given}: give --iface as often, or choose another --driver",
        interfaces(*.least, *.most)
    )]
    Ports {
        /// The driver.
        driver: &'static str,
        /// How many at least.
        least: usize,
        /// How many at the most.
        most: usize,
        /// How many it was given.
        given: usize,
    },
    /// It serves fewer queues.
    #[error(
        "the driver {driver} serves {most} queue(s) at the most, not the {queues} of {iface}: use --queues {most}, or \
         `ethtool -L {iface}` for fewer"
    )]
    Queues {
        /// The driver.
        driver: &'static str,
        /// The interface.
        iface: String,
        /// The queues that it would have to serve.
        queues: u32,
        /// How many it serves at the most.
        most: u32,
    },
    /// There is not so much room in front of a packet's data.
    #[error(
        "the driver {driver} needs {wanted} bytes in front of the data of a packet, and there are {HEADROOM}: choose \
         another --driver"
    )]
    Headroom {
        /// The driver.
        driver: &'static str,
        /// The bytes that it needs.
        wanted: usize,
    },
    /// There are no such frames.
    #[error(
        "the driver {driver} needs frames of {wanted} bytes, and {most} is the most: choose another --driver",
        most = FrameSize::FourK.bytes()
    )]
    FrameSize {
        /// The driver.
        driver: &'static str,
        /// The bytes that it needs.
        wanted: usize,
    },
    /// One of its steering rules is none.
    #[error("the driver {driver} wants the steering rule {text:?}")]
    Steering {
        /// The driver.
        driver: &'static str,
        /// The rule's text.
        text: String,
        /// What is wrong with it.
        source: RuleError,
    },
}

fn interfaces(least: usize, most: usize) -> String {
    match (least, most) {
        (1, 1) => "one interface".to_owned(),
        (least, most) if least == most => format!("{least} interfaces"),
        (least, most) => format!("{least} to {most} interfaces"),
    }
}

/// What a driver gets, once it is known that it can have it.
#[derive(Debug)]
pub(super) struct Plan {
    /// How many queues of each interface to serve.
    pub queues: u32,
    pub frame_size: FrameSize,
    /// The user's steering rules, and then those of the driver.
    pub rules: Vec<Rule>,
}

impl Plan {
    /// Whether the XDP program answers anything.
    pub fn answers(&self, config: &RunConfig) -> bool {
        config.answer || self.rules.iter().any(|rule| rule.action() == Action::Answer)
    }
}

/// What the driver gets on so many queues, with frames of this size at least.
pub(super) fn plan(config: &RunConfig, queues: u32, frame_size: FrameSize) -> Result<Plan, RequirementError> {
    let frame_size = frame_size.max(check(config, queues)?);
    Ok(Plan { queues, frame_size, rules: rules(config)? })
}

/// Refuses what this driver can't run with. Returns the frame size that it needs.
fn check(config: &RunConfig, queues: u32) -> Result<FrameSize, RequirementError> {
    let driver = config.driver.name();
    let Requirements { ports, max_queues, headroom, frame_size, .. } = config.driver.requirements();
    let given = config.ifaces().count();
    if !ports.contains(&given) {
        return Err(RequirementError::Ports { driver, least: *ports.start(), most: *ports.end(), given });
    }
    if let Some(most) = *max_queues
        && queues > most
    {
        return Err(RequirementError::Queues { driver, iface: config.iface.clone(), queues, most });
    }
    if *headroom > HEADROOM {
        return Err(RequirementError::Headroom { driver, wanted: *headroom });
    }
    FrameSize::for_bytes(*frame_size).ok_or(RequirementError::FrameSize { driver, wanted: *frame_size })
}

/// The user's steering rules, and then those of the driver. Unless they have a priority themselves, they have the lowest,
/// and so come after whatever the user has, also after what the user adds later.
fn rules(config: &RunConfig) -> Result<Vec<Rule>, RequirementError> {
    let mut rules = config.rules.clone();
    for text in &config.driver.requirements().steering {
        let rule: Rule = text.parse().map_err(|source| RequirementError::Steering {
            driver: config.driver.name(),
            text: text.clone(),
            source,
        })?;
        let rule = if rule.priority() == 0 { rule.with_priority(i16::MIN) } else { rule };
        if !rules.contains(&rule) {
            rules.push(rule);
        }
    }
    Ok(rules)
}

#[cfg(test)]
mod tests {
    use super::*;
    use netdext::driver::{Driver, DriverFactory};

    fn needing(requirements: Requirements) -> RunConfig {
        let build = |_queue| -> Box<dyn Driver> { unreachable!("it is refused before") };
        RunConfig::new("veth0", DriverFactory::new("needy", build).requiring(requirements))
    }

    /// The error of a driver with these needs on two queues.
    fn refusal(requirements: Requirements) -> String {
        check(&needing(requirements), 2).unwrap_err().to_string()
    }

    #[test]
    fn what_can_be_had_is_not_refused_and_at_the_limit_it_can() {
        assert_eq!(check(&needing(Requirements::default()), 64).unwrap(), FrameSize::TwoK);
        let most = Requirements::default().ports(0..=8).max_queues(2).headroom(240).frame_size(4096);
        assert_eq!(check(&needing(most), 2).unwrap(), FrameSize::FourK);
    }

    #[test]
    fn what_can_not_be_had_is_refused_with_what_there_is_and_what_to_do() {
        let needs = Requirements::default;
        for (needs, parts) in [
            (needs().ports(2..=8), ["takes 2 to 8 interfaces, not 1: give --iface", "another --driver"]),
            (needs().ports(2..=2), ["takes 2 interfaces, not 1: give --iface", "another --driver"]),
            (needs().max_queues(1), ["1 queue(s) at the most, not the 2 of veth0", "--queues 1"]),
            (needs().headroom(241), ["241 bytes", "there are 240"]),
            (needs().frame_size(4097), ["4097 bytes", "4096 is the most"]),
        ] {
            let refusal = refusal(needs);
            assert!(refusal.starts_with("the driver needy "), "{refusal}");
            assert!(parts.iter().all(|part| refusal.contains(part)), "{refusal}");
        }
    }

    #[test]
    fn interfaces_are_counted_as_they_are_given() {
        let two = RunConfig { other_ifaces: vec!["veth2".to_owned()], ..needing(Requirements::default()) };
        let refusal = check(&two, 1).unwrap_err().to_string();
        assert!(refusal.contains("takes one interface, not 2"), "{refusal}");
        let takes_two = needing(Requirements::default().ports(1..=2));
        assert!(check(&RunConfig { other_ifaces: vec!["veth2".to_owned()], ..takes_two }, 1).is_ok());
    }

    #[test]
    fn the_drivers_rules_come_after_whatever_the_user_has_and_none_twice() {
        let rule = |text: &str| text.parse::<Rule>().unwrap();
        let users = rule("drop:dst=198.18.0.0/24,proto=udp");
        let drivers = ["driver:dst=198.18.0.1,proto=udp", "driver:proto=tcp,priority=5"];
        let needs = Requirements::default().steering([drivers[0], drivers[0], drivers[1]]);
        let config = RunConfig { rules: vec![users], ..needing(needs) };
        let lowest = rule("driver:dst=198.18.0.1,proto=udp,priority=-32768");
        assert_eq!(rules(&config).unwrap(), [users, lowest, rule(drivers[1])]);
    }

    #[test]
    fn a_drivers_rule_that_is_none_is_refused_with_its_text() {
        let needs = Requirements::default().steering(["divert:proto=udp"]);
        let error = netdext::error::one_line(&rules(&needing(needs)).unwrap_err());
        assert!(
            error.starts_with("the driver needy wants the steering rule \"divert:proto=udp\": "),
            "{error}"
        );
    }
}
