//! The daemon: runs the drivers that are installed, and starts those that fail again.
//!
//! ```text
//!   clients --Incoming--> Daemon --Order--> Runner (a task with a Supervisor), one a driver
//!                           ^  '-- Registry        |
//!                           '--------Event---------'
//! ```
//! One loop owns the registry and what is known of each driver. It never waits for a driver: requests are
//! handed on, and what comes of them comes back as an event.

pub mod notify;
mod runner;
mod slot;
pub mod suspend;
#[cfg(test)]
mod testing;

use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot};
use tokio::time::Interval;

use self::notify::ServiceManager;
use self::runner::{Event, Order, Runner, Start};
use self::slot::{Phase, ReplySender, Slot};
use self::suspend::SleepEvent;
use crate::control::protocol::{ErrorCode, ErrorObject, Identity, Request, Selector, ServerInfo};
use crate::control::{Answer, ChangedRule, Incoming, Reply, tree};
use crate::metrics::StatsRequest;
use crate::registry::{Installed, Registry};
use crate::spec::{DriverSpec, DriverTypes};
use netdext::driver::PowerState;
use netdext::error::one_line;
use netdext_host::stats::PortStats;
use netdext_host::steer::Rule;

/// How long drivers may take to stop when the daemon ends; a driver takes less than a second.
const STOP_DEADLINE: Duration = Duration::from_secs(3);

/// The number that the first entry of the registry tree has, as in I/O Registry.
const FIRST_ID: u64 = 0x1_0000_0001;

/// Numbers between drivers, for the entries below them.
const ID_STEP: u64 = 0x100;

/// The owner of all installed drivers. To be run on a [`LocalSet`](tokio::task::LocalSet).
pub struct Daemon {
    registry: Registry,
    types: Arc<DriverTypes>,
    slots: Vec<Slot>,
    events: mpsc::UnboundedReceiver<Event>,
    sender: mpsc::UnboundedSender<Event>,
    next_id: u64,
    risk_kernel_panic: bool,
}

impl Daemon {
    /// A daemon for what the registry holds, which knows these drivers; nothing is started yet.
    pub fn new(registry: Registry, types: Arc<DriverTypes>) -> Self {
        let (sender, events) = mpsc::unbounded_channel();
        let slots = Vec::new();
        let mut daemon =
            Self { registry, types, slots, events, sender, next_id: FIRST_ID, risk_kernel_panic: false };
        for installed in daemon.registry.drivers().to_vec() {
            daemon.add_slot(installed);
        }
        daemon
    }

    /// Lets drivers start also on a kernel that can panic as soon as a socket sends; see [`Release::can_panic`].
    ///
    /// [`Release::can_panic`]: netdext_host::kernel::Release::can_panic
    pub fn risk_kernel_panic(&mut self, risk_it: bool) {
        self.risk_kernel_panic = risk_it;
    }

    fn add_slot(&mut self, installed: Installed) -> u64 {
        let id = self.next_id;
        self.next_id += ID_STEP;
        self.slots.push(Slot::new(id, installed));
        id
    }

    /// Starts what is enabled, and waits until each driver runs or has failed once.
    pub async fn start(&mut self) {
        let enabled: Vec<u64> =
            self.slots.iter().filter(|slot| slot.installed.enabled).map(|slot| slot.id).collect();
        for id in enabled {
            self.start_driver(id, None);
        }
        while self.slots.iter().any(|slot| matches!(slot.phase, Phase::Starting { .. })) {
            if let Some(event) = self.events.recv().await {
                self.on_event(event);
            }
        }
    }

    /// Serves requests and scrapes of the metrics until `shutdown`; then stops every driver in order.
    pub async fn run(
        mut self,
        mut requests: mpsc::Receiver<Incoming>,
        mut scrapes: mpsc::Receiver<StatsRequest>,
        shutdown: impl Future<Output = ()>,
    ) {
        let manager = ServiceManager::from_env();
        let (installed, running) = self.counts();
        manager.ready(&format!("{running} of {installed} driver(s) running"));
        self.watch_sleep();
        let mut alive = manager.alive_interval().map(tokio::time::interval);
        tokio::pin!(shutdown);
        loop {
            tokio::select! {
                () = &mut shutdown => break,
                Some(event) = self.events.recv() => self.on_event(event),
                Some(incoming) = requests.recv() => self.on_request(incoming),
                Some(scrape) = scrapes.recv() => self.on_scrape(scrape),
                () = next_sign_of_life(&mut alive) => manager.alive(),
            }
        }
        manager.stopping();
        self.stop().await;
    }

    /// Powers the drivers off before the machine sleeps, where logind says so.
    fn watch_sleep(&self) {
        let sender = self.sender.clone();
        tokio::task::spawn_local(async move {
            let Some(mut events) = suspend::watch().await else { return };
            while let Some(event) = events.next().await {
                if sender.send(Event::Sleep(event)).is_err() {
                    break;
                }
            }
        });
    }

    /// Powers every running driver off or on, save for those that the user has powered off. The lock is
    /// dropped when all have answered.
    fn on_sleep(&self, event: SleepEvent) {
        let (state, lock) = match event {
            SleepEvent::Suspending(lock) => (PowerState::Off, Some(lock)),
            SleepEvent::Resumed => (PowerState::On, None),
        };
        let mut answers = Vec::new();
        for slot in self.slots.iter().filter(|slot| slot.installed.powered) {
            let Some(runner) = slot.runner() else { continue };
            let (sender, receiver) = oneshot::channel();
            let request = Request::Power { driver: Selector::default(), state };
            if runner.send(Order { request, reply: sender }).is_ok() {
                answers.push(receiver);
            }
        }
        tokio::task::spawn_local(async move {
            for answer in answers {
                if let Ok(Err(error)) = answer.await {
                    tracing::error!("around the machine's sleep: {error}");
                }
            }
            drop(lock);
        });
    }

    /// The drivers that are installed and the number of those that run.
    pub fn counts(&self) -> (usize, usize) {
        let running = self.slots.iter().filter(|slot| matches!(slot.phase, Phase::Running { .. })).count();
        (self.slots.len(), running)
    }

    fn start_driver(&mut self, id: u64, installer: Option<ReplySender>) {
        let Some(slot) = self.slots.iter_mut().find(|slot| slot.id == id) else { return };
        let start = Start {
            driver: id,
            bundle_id: slot.installed.identity.bundle_id.clone(),
            types: Arc::clone(&self.types),
            spec: DriverSpec { steer: slot.installed.rules.clone(), ..slot.installed.spec.clone() },
            power: if slot.installed.powered { PowerState::On } else { PowerState::Off },
            made_link: slot.installed.made_link,
            risk_kernel_panic: self.risk_kernel_panic,
        };
        slot.phase = Phase::Starting { runner: Runner::spawn(start, self.sender.clone()), installer };
    }

    fn on_event(&mut self, event: Event) {
        match event {
            Event::Started { driver, info, made_link } => {
                let Some(slot) = self.slots.iter_mut().find(|slot| slot.id == driver) else { return };
                let entry = match std::mem::replace(&mut slot.phase, Phase::Waiting) {
                    Phase::Starting { runner, installer } => {
                        slot.phase = Phase::Running { runner, info, since: Instant::now() };
                        installer.map(|installer| (installer, slot.list_entry()))
                    }
                    other => {
                        slot.phase = other;
                        None
                    }
                };
                let saved = self.change(driver, |installed| installed.made_link |= made_link);
                if let Some((installer, entry)) = entry {
                    reply(installer, saved.and_then(|()| Reply::json(&entry)));
                } else if let Err(error) = saved {
                    tracing::error!("{error}");
                }
            }
            Event::Ended { driver, error } => self.on_ended(driver, error),
            Event::Sleep(event) => self.on_sleep(event),
            Event::Retry { driver } => {
                let waiting = |slot: &&Slot| slot.id == driver && matches!(slot.phase, Phase::Waiting);
                if self.slots.iter().any(|slot| waiting(&slot) && slot.installed.enabled) {
                    self.start_driver(driver, None);
                }
            }
            Event::Answered { driver, request, answer, client } => {
                let answer = self.note_change(driver, &request, answer);
                reply(client, answer);
            }
        }
    }

    fn on_ended(&mut self, driver: u64, error: Option<String>) {
        let Some(index) = self.slots.iter().position(|slot| slot.id == driver) else { return };
        let slot = &mut self.slots[index];
        match std::mem::replace(&mut slot.phase, Phase::Off) {
            Phase::Stopping { uninstaller: Some(uninstaller) } => {
                let slot = self.slots.remove(index);
                let removed =
                    self.registry.uninstall(&slot.selector()).map_err(|error| ErrorObject::from(&error));
                let answer = match error {
                    Some(error) => Err(ErrorObject::new(ErrorCode::Failed, error)),
                    None => Reply::json(&slot.list_entry()),
                };
                reply(uninstaller, removed.and(answer));
            }
            Phase::Stopping { uninstaller: None } => {
                let gone = self.change(driver, |installed| installed.made_link = false);
                if let Err(error) = gone {
                    tracing::error!("{error}");
                }
            }
            Phase::Starting { installer: Some(installer), .. } => {
                let slot = self.slots.remove(index);
                if let Err(error) = self.registry.uninstall(&slot.selector()) {
                    tracing::error!("{}", one_line(&error));
                }
                let error = error.unwrap_or_else(|| "it ended while it was being started".to_owned());
                reply(installer, Err(ErrorObject::new(ErrorCode::Failed, error)));
            }
            before => {
                slot.phase = before;
                let error = error.unwrap_or_else(|| "it ended".to_owned());
                tracing::warn!(bundle = %slot.installed.identity.bundle_id, "{error}");
                let wait = slot.failed(error);
                let sender = self.sender.clone();
                tokio::task::spawn_local(async move {
                    tokio::time::sleep(wait).await;
                    let _ = sender.send(Event::Retry { driver });
                });
                if let Err(error) = self.change(driver, |installed| installed.made_link = false) {
                    tracing::error!("{error}");
                }
            }
        }
    }

    fn on_request(&mut self, incoming: Incoming) {
        let Incoming { request, peer: _, answer: client } = incoming;
        match request {
            Request::Hello {} => reply(client, Reply::json(&ServerInfo::of_this_process(true))),
            Request::List {} => {
                reply(client, Reply::json(&self.slots.iter().map(Slot::list_entry).collect::<Vec<_>>()));
            }
            Request::Ioreg {} => self.ioreg(client),
            Request::Install { identity, spec } => self.install(identity, *spec, client),
            Request::Uninstall { driver } => self.uninstall(&driver, client),
            request => match self.find(request.driver().unwrap_or(&Selector::default())) {
                Ok(id) => self.hand_on(id, request, client),
                Err(error) => reply(client, Err(error)),
            },
        }
    }

    /// The one driver that is meant.
    fn find(&self, selector: &Selector) -> Result<u64, ErrorObject> {
        let meant = &self.registry.find(selector).map_err(|error| ErrorObject::from(&error))?.identity;
        let slot = self.slots.iter().find(|slot| {
            let Identity { team_id, bundle_id, .. } = &slot.installed.identity;
            (team_id, bundle_id) == (&meant.team_id, &meant.bundle_id)
        });
        slot.map(|slot| slot.id).ok_or_else(|| ErrorObject::new(ErrorCode::NotFound, "the driver is gone"))
    }

    fn install(&mut self, identity: Identity, spec: DriverSpec, client: ReplySender) {
        if let Err(error) = spec.resolve(&self.types) {
            reply(client, Err(ErrorObject::new(ErrorCode::BadRequest, one_line(&error))));
            return;
        }
        match self.registry.install(identity, spec).cloned() {
            Ok(installed) => {
                let id = self.add_slot(installed);
                self.start_driver(id, Some(client));
            }
            Err(error) => reply(client, Err(ErrorObject::from(&error))),
        }
    }

    fn uninstall(&mut self, selector: &Selector, client: ReplySender) {
        let id = match self.find(selector) {
            Ok(id) => id,
            Err(error) => return reply(client, Err(error)),
        };
        let Some(slot) = self.slots.iter_mut().find(|slot| slot.id == id) else { return };
        let stopping = Phase::Stopping { uninstaller: Some(client) };
        match std::mem::replace(&mut slot.phase, stopping) {
            // Dropping the runner stops the driver, and its end continues here.
            Phase::Running { runner, .. } => drop(runner),
            Phase::Starting { runner, installer } => {
                drop(runner);
                let message = "it was uninstalled while it was being installed";
                if let Some(installer) = installer {
                    reply(installer, Err(ErrorObject::new(ErrorCode::State, message)));
                }
            }
            Phase::Stopping { uninstaller } => {
                if let Some(first) = uninstaller {
                    reply(first, Err(ErrorObject::new(ErrorCode::State, "it is being uninstalled already")));
                }
            }
            Phase::Off | Phase::Waiting => {
                let (spec, made_link) = (slot.installed.spec.clone(), slot.installed.made_link);
                let sender = self.sender.clone();
                tokio::task::spawn_local(async move {
                    let removed = if made_link { runner::remove_link(&spec.iface).await } else { Ok(()) };
                    let error = removed.err().map(|error| one_line(&error));
                    let _ = sender.send(Event::Ended { driver: id, error });
                });
            }
        }
    }

    /// Hands a request to the driver, or does without it what needs no running driver.
    fn hand_on(&mut self, id: u64, request: Request, client: ReplySender) {
        let Some(slot) = self.slots.iter_mut().find(|slot| slot.id == id) else { return };
        let Some(runner) = slot.runner() else {
            let answer = self.change_while_stopped(id, &request);
            return reply(client, answer);
        };
        let order = if changes(&request) {
            let (sender, receiver) = oneshot::channel();
            let (events, asked) = (self.sender.clone(), request.clone());
            tokio::task::spawn_local(async move {
                let ended = || ErrorObject::new(ErrorCode::State, "the driver ended before it answered");
                let answer = receiver.await.unwrap_or_else(|_| Err(ended()));
                let _ = events.send(Event::Answered { driver: id, request: asked, answer, client });
            });
            Order { request, reply: sender }
        } else {
            Order { request, reply: client }
        };
        if let Err(refused) = runner.send(order) {
            let error = ErrorObject::new(ErrorCode::Busy, "too many requests wait for the driver");
            reply(refused.reply, Err(error));
        }
    }

    fn change_while_stopped(&mut self, id: u64, request: &Request) -> Answer {
        let Some(slot) = self.slots.iter_mut().find(|slot| slot.id == id) else {
            return Err(ErrorObject::new(ErrorCode::NotFound, "the driver is gone"));
        };
        match (request, &slot.phase) {
            (Request::Enable { .. }, Phase::Off) => {
                self.change(id, |installed| keep_switch(installed, request))?;
                self.start_driver(id, None);
            }
            (Request::Disable { .. }, Phase::Waiting | Phase::Off) => {
                slot.phase = Phase::Off;
                self.change(id, |installed| keep_switch(installed, request))?;
            }
            (Request::Power { .. }, Phase::Waiting | Phase::Off) => {
                self.change(id, |installed| keep_switch(installed, request))?;
            }
            _ => return Err(slot.not_running()),
        }
        let slot = self.slots.iter().find(|slot| slot.id == id);
        Reply::json(&slot.map(Slot::list_entry))
    }

    /// Keeps in the registry what the driver has just been told, and answers with the driver's entry where the
    /// driver itself has nothing to say.
    fn note_change(&mut self, driver: u64, request: &Request, answer: Answer) -> Answer {
        let answer = answer?;
        match request {
            Request::Enable { .. } | Request::Disable { .. } | Request::Power { .. } => {
                self.change(driver, |installed| keep_switch(installed, request))?;
            }
            Request::SteerAdd { .. } | Request::SteerAddAll { .. } | Request::SteerDel { .. } => {
                self.change(driver, |installed| keep_rules(installed, request, &answer))?;
                return Ok(answer);
            }
            _ => return Ok(answer),
        }
        let slot = self.slots.iter().find(|slot| slot.id == driver);
        slot.map_or(Ok(answer), |slot| Reply::json(&slot.list_entry()))
    }

    /// Changes what the registry keeps of a driver.
    fn change(&mut self, id: u64, change: impl FnOnce(&mut Installed)) -> Result<(), ErrorObject> {
        let Some(slot) = self.slots.iter_mut().find(|slot| slot.id == id) else { return Ok(()) };
        let changed =
            self.registry.update(&slot.selector(), change).map_err(|error| ErrorObject::from(&error))?;
        slot.installed = changed.clone();
        Ok(())
    }

    fn on_scrape(&self, scrape: StatsRequest) {
        let asked: Vec<_> = self.slots.iter().filter_map(ask_stats).collect();
        tokio::task::spawn_local(async move {
            let mut stats = Vec::new();
            for answer in asked {
                stats.extend(read_stats(answer).await.into_iter().flat_map(PortStats::into_ports));
            }
            // Who asked may have stopped waiting.
            let _ = scrape.send(stats);
        });
    }

    fn ioreg(&self, client: ReplySender) {
        let mut waiting = Vec::new();
        for slot in &self.slots {
            let info = match &slot.phase {
                Phase::Running { info, .. } => Some(info.clone()),
                _ => None,
            };
            let facts = tree::Facts { id: slot.id, entry: slot.list_entry(), info, stats: None };
            waiting.push((facts, ask_stats(slot)));
        }
        tokio::task::spawn_local(async move {
            let mut roots = Vec::new();
            for (mut facts, receiver) in waiting {
                if let Some(receiver) = receiver {
                    facts.stats = read_stats(receiver).await;
                }
                roots.extend(tree::build(&facts));
            }
            reply(client, Reply::json(&roots));
        });
    }

    async fn stop(mut self) {
        let mut left = 0;
        for slot in &mut self.slots {
            let stopping = Phase::Stopping { uninstaller: None };
            left += usize::from(matches!(
                std::mem::replace(&mut slot.phase, stopping),
                Phase::Running { .. } | Phase::Starting { .. }
            ));
        }
        let all = async {
            while left > 0 {
                let Some(event) = self.events.recv().await else { break };
                left -= usize::from(matches!(event, Event::Ended { .. }));
                if let Event::Ended { driver, error: Some(error) } = &event {
                    tracing::error!(driver, "{error}");
                }
                self.on_event(event);
            }
        };
        if tokio::time::timeout(STOP_DEADLINE, all).await.is_err() {
            tracing::error!("{left} driver(s) did not stop in time");
        }
    }
}

/// When the service manager wants to hear from the daemon again; never, where it does not watch.
async fn next_sign_of_life(due: &mut Option<Interval>) {
    match due {
        Some(due) => drop(due.tick().await),
        None => std::future::pending().await,
    }
}

/// Asks a driver for its counts, if it runs.
fn ask_stats(slot: &Slot) -> Option<oneshot::Receiver<Answer>> {
    let (sender, receiver) = oneshot::channel();
    let order = Order { request: Request::Stats { driver: Selector::default() }, reply: sender };
    slot.runner()?.send(order).ok()?;
    Some(receiver)
}

/// The counts, unless the driver ended meanwhile.
async fn read_stats(answer: oneshot::Receiver<Answer>) -> Option<PortStats> {
    match answer.await {
        Ok(Ok(Reply::Stats(stats))) => Some(*stats),
        _ => None,
    }
}

/// Whether a request changes what the registry keeps.
fn changes(request: &Request) -> bool {
    matches!(
        request,
        Request::Enable { .. }
            | Request::Disable { .. }
            | Request::Power { .. }
            | Request::SteerAdd { .. }
            | Request::SteerAddAll { .. }
            | Request::SteerDel { .. }
    )
}

/// Keeps what a request says of the two switches of a driver.
fn keep_switch(installed: &mut Installed, request: &Request) {
    match request {
        Request::Enable { .. } => installed.enabled = true,
        Request::Disable { .. } => installed.enabled = false,
        Request::Power { state, .. } => installed.powered = *state == PowerState::On,
        _ => {}
    }
}

/// Keeps the rules as the driver has them now, the oldest first.
fn keep_rules(installed: &mut Installed, request: &Request, answer: &Reply) {
    // What was meant with `yes` now is meant after a restart too.
    if let Request::SteerAddAll { rules, yes, .. } = request {
        installed.rules.extend_from_slice(rules);
        installed.spec.yes |= yes;
        return;
    }
    let Reply::Json(json) = answer else { return };
    let Ok(ChangedRule { rule, .. }) = serde_json::from_str(json) else { return };
    match request {
        Request::SteerAdd { yes, .. } => {
            installed.rules.push(rule);
            installed.spec.yes |= yes;
        }
        // The text that was given at first may be another form of the rule.
        _ => installed.rules.retain(|text| text.parse::<Rule>().is_ok_and(|kept| kept.to_string() != rule)),
    }
}

fn reply(client: ReplySender, answer: Answer) {
    // The client may have gone.
    let _ = client.send(answer);
}
