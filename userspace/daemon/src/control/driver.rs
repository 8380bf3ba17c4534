//! What a running driver answers to requests that are for it.

use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use super::protocol::{ErrorCode, ErrorObject, Request};
use super::{Answer, Reply};
use netdext::driver::ControlError;
use netdext::error::one_line;
use netdext::tap::Filter;
use netdext_host::capture::{CaptureConfig, CaptureSink, DEFAULT_RING_SIZE, DEFAULT_SNAPLEN};
use netdext_host::steer::{Rule, RuleId, TableError};
use netdext_host::supervisor::{DriverControlError, SteerError, Supervisor};
use netdext_host::xdp::program::ProgramError;

/// Chunks of a capture that may wait for the client; what comes on top is counted in the file.
const CAPTURE_CHUNKS: usize = 64;

/// Carries out a request on a running driver.
///
/// # Errors
///
/// An object of kind [`ErrorCode::Failed`] with the cause, or [`ErrorCode::State`] for a request that is not for a
/// driver.
pub async fn answer(supervisor: &mut Supervisor, request: Request) -> Answer {
    match request {
        Request::Stats { .. } => Ok(Reply::Stats(Box::new(supervisor.stats().await.map_err(failed)?))),
        Request::Enable { .. } => done(supervisor.set_enabled(true).await),
        Request::Disable { .. } => done(supervisor.set_enabled(false).await),
        Request::Power { state, .. } => done(supervisor.set_power(state).await),
        Request::DriverControl { name, value, .. } => {
            Reply::json(&supervisor.control(&name, value).await.map_err(control_failed)?)
        }
        Request::Capture { filter, snaplen, ring_size, .. } => {
            capture(supervisor, filter, snaplen, ring_size)
        }
        Request::Reload { .. } => done(supervisor.reload()),
        Request::SteerList { .. } => Reply::json(&supervisor.rules().map_err(failed)?),
        Request::SteerAdd { rule, yes, .. } => add_rule(supervisor, &rule, yes).await,
        Request::SteerAddAll { rules, yes, .. } => add_rules(supervisor, &rules, yes).await,
        Request::SteerDel { id, .. } => {
            let id = RuleId(id);
            let rule = supervisor.del_rule(id).map_err(steer_failed)?;
            Reply::json(&ChangedRule { id, rule: rule.to_string() })
        }
        Request::Hello {}
        | Request::List {}
        | Request::Ioreg {}
        | Request::Install { .. }
        | Request::Uninstall { .. } => {
            Err(ErrorObject::new(ErrorCode::State, "this is nothing that a driver can be asked"))
        }
    }
}

/// The answer to adding and to removing a steering rule.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChangedRule {
    /// Its number.
    pub id: RuleId,
    /// The rule's text.
    pub rule: String,
}

/// The answer to adding several steering rules.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AddedRules {
    /// How many there were.
    pub added: u32,
    /// The number of the first; those of the others follow. Absent if there was none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first_id: Option<RuleId>,
}

async fn add_rule(supervisor: &mut Supervisor, text: &str, yes: bool) -> Answer {
    let rule: Rule =
        text.parse().map_err(|error| ErrorObject::new(ErrorCode::BadRequest, one_line(&error)))?;
    let id = supervisor.add_rule(rule, yes).await.map_err(steer_failed)?;
    Reply::json(&ChangedRule { id, rule: rule.to_string() })
}

async fn add_rules(supervisor: &mut Supervisor, texts: &[String], yes: bool) -> Answer {
    let parse = |(at, text): (usize, &String)| {
        text.parse().map_err(|error| {
            ErrorObject::new(ErrorCode::BadRequest, format!("args.rules[{at}]: {}", one_line(&error)))
        })
    };
    let rules: Vec<Rule> = texts.iter().enumerate().map(parse).collect::<Result<_, _>>()?;
    let ids = supervisor.add_rules(&rules, yes).await.map_err(steer_failed)?;
    let first_id = (!ids.is_empty()).then_some(RuleId(ids.start));
    Reply::json(&AddedRules { added: ids.end - ids.start, first_id })
}

fn steer_failed(error: SteerError) -> ErrorObject {
    match error {
        SteerError::Program(error) => rule_failed(error),
        error @ SteerError::DefaultRoute { .. } => ErrorObject::new(ErrorCode::State, one_line(&error)),
        error => failed(error),
    }
}

fn rule_failed(error: ProgramError) -> ErrorObject {
    let code = match &error {
        ProgramError::Rule(TableError::Duplicate { .. }) => ErrorCode::Exists,
        ProgramError::Rule(TableError::NotFound { .. }) => ErrorCode::NotFound,
        _ => ErrorCode::Failed,
    };
    ErrorObject::new(code, one_line(&error))
}

fn control_failed(error: DriverControlError) -> ErrorObject {
    let code = match &error {
        DriverControlError::Refused(ControlError::Unknown { .. }) => ErrorCode::NotFound,
        DriverControlError::Refused(ControlError::BadValue { .. }) => ErrorCode::BadRequest,
        _ => ErrorCode::Failed,
    };
    ErrorObject::new(code, one_line(&error))
}

fn capture(
    supervisor: &mut Supervisor,
    filter: Option<String>,
    snaplen: Option<u32>,
    ring_size: Option<u32>,
) -> Answer {
    let bad = |error| ErrorObject::new(ErrorCode::BadRequest, one_line(&error));
    let filter = filter.unwrap_or_default().parse::<Filter>().map_err(bad)?;
    let config = CaptureConfig {
        filter,
        snaplen: snaplen.unwrap_or(DEFAULT_SNAPLEN),
        ring_size: ring_size.unwrap_or(DEFAULT_RING_SIZE),
    };
    let (sender, chunks) = mpsc::channel(CAPTURE_CHUNKS);
    let capture = supervisor.start_capture(&config, CaptureSink::Channel(sender)).map_err(failed)?;
    // It ends when the client goes, which closes the channel.
    capture.detach();
    Ok(Reply::Stream(chunks))
}

fn done<E: std::error::Error>(result: Result<(), E>) -> Answer {
    result.map_err(failed)?;
    Reply::json(&serde_json::json!({}))
}

fn failed(error: impl std::error::Error) -> ErrorObject {
    ErrorObject::new(ErrorCode::Failed, one_line(&error))
}
