//! What a process with one driver answers: `netdext run`.

use super::driver;
use super::list::{ListEntry, ListState};
use super::protocol::{ErrorCode, ErrorObject, Request, Selector, ServerInfo};
use super::tree::{self, Facts};
use super::{Answer, Incoming, Reply};
use netdext::driver::PowerState;
use netdext_host::supervisor::Supervisor;

/// The number of the first entry of the tree.
const FIRST_ID: u64 = 0x1_0000_0001;

/// The names of the one driver.
#[derive(Clone, Debug)]
pub struct Single {
    entry: ListEntry,
}

impl Single {
    /// A driver that has just been started.
    pub fn new(driver: &str, iface: &str, other_ifaces: &[String]) -> Self {
        let bundle_id = format!("org.netdext.{driver}");
        let entry = ListEntry {
            team_id: format!("PID{}", std::process::id()),
            name: bundle_id.clone(),
            bundle_id,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            enabled: true,
            active: true,
            state: ListState::ActivatedEnabled,
            iface: iface.to_owned(),
            other_ifaces: other_ifaces.to_vec(),
            last_error: None,
        };
        Self { entry }
    }

    /// Answers a request.
    pub async fn serve(&mut self, supervisor: &mut Supervisor, incoming: Incoming) {
        let Incoming { request, peer: _, answer } = incoming;
        let result = self.answer(supervisor, request).await;
        // The client may have gone.
        let _ = answer.send(result);
    }

    async fn answer(&mut self, supervisor: &mut Supervisor, request: Request) -> Answer {
        match request {
            Request::Hello {} => Reply::json(&ServerInfo::of_this_process(false)),
            Request::List {} => Reply::json(&[self.entry(supervisor)]),
            Request::Ioreg {} => {
                let facts = Facts {
                    id: FIRST_ID,
                    entry: self.entry(supervisor),
                    info: Some(Box::new(supervisor.info().clone())),
                    stats: supervisor.stats().await.ok(),
                };
                Reply::json(&tree::build(&facts))
            }
            Request::Install { .. } | Request::Uninstall { .. } => Err(ErrorObject::new(
                ErrorCode::State,
                "this is `netdext run`, which ends with its terminal; `netdext daemon` installs drivers",
            )),
            request => match request.driver() {
                Some(selector) if !self.entry.is_meant_by(selector) => Err(not_here(selector)),
                _ => {
                    let switches = matches!(
                        request,
                        Request::Enable { .. } | Request::Disable { .. } | Request::Power { .. }
                    );
                    let answer = driver::answer(supervisor, request).await?;
                    if switches { Reply::json(&self.entry(supervisor)) } else { Ok(answer) }
                }
            },
        }
    }

    fn entry(&self, supervisor: &Supervisor) -> ListEntry {
        let enabled = supervisor.is_enabled();
        let state = match (supervisor.power(), enabled) {
            (PowerState::Off, _) => ListState::ActivatedPoweredOff,
            (PowerState::On, true) => ListState::ActivatedEnabled,
            (PowerState::On, false) => ListState::ActivatedDisabled,
        };
        ListEntry { enabled, state, ..self.entry.clone() }
    }
}

fn not_here(selector: &Selector) -> ErrorObject {
    ErrorObject::new(ErrorCode::NotFound, format!("{selector} is not here; `netdext list` shows what is"))
}
