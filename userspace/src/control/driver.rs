//! What a running driver answers to requests that are for it.

use super::protocol::{ErrorCode, ErrorObject, Request};
use super::{Answer, Reply};
use crate::driver::InjectCommand;
use crate::error::one_line;
use crate::supervisor::Supervisor;

/// Carries out a request on a running driver.
///
/// # Errors
///
/// An object of kind [`ErrorCode::Failed`] with the cause, or [`ErrorCode::State`] for a request that is not for a
/// driver.
pub async fn answer(supervisor: &mut Supervisor, request: Request) -> Answer {
    match request {
        Request::Stats { .. } => Reply::json(&supervisor.stats().await.map_err(failed)?),
        Request::Enable { .. } => done(supervisor.set_enabled(true).await),
        Request::Disable { .. } => done(supervisor.set_enabled(false).await),
        Request::Power { state, .. } => done(supervisor.set_power(state).await),
        Request::InjectStart { .. } => done(supervisor.inject(InjectCommand::Start).await),
        Request::InjectStop { .. } => done(supervisor.inject(InjectCommand::Stop).await),
        Request::InjectSet { change, .. } => done(supervisor.inject(InjectCommand::Set(change.into())).await),
        Request::InjectTargets { .. } => Reply::json(&supervisor.inject_targets().await),
        Request::Reload { .. }
        | Request::SteerList { .. }
        | Request::SteerAdd { .. }
        | Request::SteerDel { .. }
        | Request::Capture { .. }
        | Request::Hello {}
        | Request::List {}
        | Request::Ioreg {}
        | Request::Install { .. }
        | Request::Uninstall { .. } => {
            Err(ErrorObject::new(ErrorCode::State, "this is nothing that a driver can be asked"))
        }
    }
}

fn done<E: std::error::Error>(result: Result<(), E>) -> Answer {
    result.map_err(failed)?;
    Reply::json(&serde_json::json!({}))
}

fn failed(error: impl std::error::Error) -> ErrorObject {
    ErrorObject::new(ErrorCode::Failed, one_line(&error))
}
