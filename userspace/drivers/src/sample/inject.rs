//! What a running injector of echo requests can be told, and what it says of each of its targets.
//!
//! | Command | Value | Answer |
//! |---|---|---|
//! | `inject_start` | `{}` or null: send again, the first batch at once; nothing changes if it sends already | `{}` |
//! | `inject_stop` | `{}` or null: send nothing more; replies still outstanding are waited for | `{}` |
//! | `inject_set` | [`InjectSettings`]: all of it applies, or none | `{}` |
//! | `inject_targets` | `{}` or null | an array of [`TargetStats`], in the order of their turns |

use std::net::IpAddr;

use netdext::driver::ControlError;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// A change of what an injector sends; what is `None` stays as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct InjectSettings {
    /// From one batch to the next, in ns.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub interval_ns: Option<u64>,
    /// Echo requests in a batch.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub batch: Option<usize>,
    /// Bytes of ICMP payload.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub payload_bytes: Option<usize>,
    /// Whom to send to, in turn, each once even if named twice; an empty list means to learn it. A target that
    /// was one before keeps its counts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub targets: Option<Vec<IpAddr>>,
}

/// A command of the injector.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum InjectCommand {
    Start,
    Stop,
    Set(InjectSettings),
    Targets,
}

impl InjectCommand {
    /// The command of that name; `None` if it is not the injector's.
    pub(super) fn read(name: &str, value: &Value) -> Result<Option<Self>, ControlError> {
        let alone = |command| ControlError::read_nothing(name, value).map(|()| Some(command));
        match name {
            "inject_start" => alone(Self::Start),
            "inject_stop" => alone(Self::Stop),
            "inject_targets" => alone(Self::Targets),
            "inject_set" => Ok(Some(Self::Set(ControlError::read(name, value)?))),
            _ => Ok(None),
        }
    }
}

/// The counts of one target, in the shape of the JSON output. `sent == replies + lost + in_flight` at any time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TargetStats {
    /// Its address.
    pub target: IpAddr,
    /// Requests sent to it.
    pub sent: u64,
    /// Of those, answered in time.
    pub replies: u64,
    /// Of those, not answered in time.
    pub lost: u64,
    /// Of those, still waiting.
    pub in_flight: u64,
    /// Replies after the time limit.
    pub late: u64,
    /// Round-trip times of the replies in time.
    pub rtt_ns: RttSummary,
}

/// Round-trip times in ns; all 0 if there is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RttSummary {
    /// The shortest.
    pub min: u64,
    /// The arithmetic mean, rounded down.
    pub mean: u64,
    /// The longest.
    pub max: u64,
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn commands_are_read_whole_or_not_at_all() {
        let read = InjectCommand::read;
        assert_eq!(read("inject_start", &Value::Null), Ok(Some(InjectCommand::Start)));
        assert_eq!(read("inject_stop", &json!({})), Ok(Some(InjectCommand::Stop)));
        let settings = InjectSettings { batch: Some(3), ..InjectSettings::default() };
        assert_eq!(read("inject_set", &json!({"batch": 3})), Ok(Some(InjectCommand::Set(settings))));
        assert_eq!(read("sing", &Value::Null), Ok(None));
        for (name, value, named) in [
            ("inject_start", json!({"batch": 3}), "batch"),
            ("inject_set", json!({"batch": -1}), "-1"),
            ("inject_set", json!({"bach": 1}), "bach"),
            ("inject_set", json!({"targets": ["x"]}), "IP address"),
        ] {
            let error = read(name, &value).unwrap_err().to_string();
            assert!(error.starts_with(name) && error.contains(named), "{error}");
        }
    }
}
