//! What a running driver answers to requests that are for it.

use super::protocol::{ErrorCode, ErrorObject, Request};
use super::{Answer, Reply};
use crate::error::one_line;
use crate::supervisor::Supervisor;

/// Carries out a request on a running driver. What is not for a driver is answered as an error of state.
pub async fn answer(supervisor: &mut Supervisor, request: Request) -> Answer {
    match request {
        Request::Stats { .. } => Reply::json(&supervisor.stats().await.map_err(|error| failed(&error))?),
        Request::Enable { .. } => done(supervisor.set_enabled(true).await),
        Request::Disable { .. } => done(supervisor.set_enabled(false).await),
        Request::Power { state, .. } => done(supervisor.set_power(state).await),
        _ => {
            Err(ErrorObject::new(ErrorCode::State, "only the daemon can do that: `netdext daemon` starts it"))
        }
    }
}

fn done<E: std::error::Error>(result: Result<(), E>) -> Answer {
    result.map_err(|error| failed(&error))?;
    Reply::json(&serde_json::json!({}))
}

fn failed(error: &dyn std::error::Error) -> ErrorObject {
    ErrorObject::new(ErrorCode::Failed, one_line(error))
}
