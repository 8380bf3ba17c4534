//! One interface of a running driver: its XDP program, its link and what was changed of it.

use super::config::{RunConfig, StartError, broadcasts, frame_size};
use super::requirements::Plan;
use super::sockets::Sockets;
use super::{EndReason, RunInfo};
use crate::link::tuning::Tuned;
use crate::link::{Device, LinkEvent, LinkEvents, Netlink, PairCounters, threaded};
use crate::xdp::attachment::XdpHook;
use crate::xdp::peer_napi::{PeerNapi, PeerNapiError};
use crate::xdp::program::{FrameLog, ProgramConfig, ProgramError, SteeringProgram};
use netdext::driver::{DeviceInfo, PortId, RxTimestamps};
use netdext::packet::FrameSize;

/// An interface that a driver has.
pub(super) struct RunningPort {
    pub id: PortId,
    pub iface: String,
    // First: off the interface before anything else of it goes.
    pub program: SteeringProgram,
    // Whether the XDP program answers while the port is enabled.
    answer: bool,
    // Before `peer_napi`: it may be the one that has the thread.
    tuned: Vec<Tuned>,
    // After `program`: answers need it.
    peer_napi: Option<PeerNapi>,
    pub link: LinkEvents,
    pub frame_log: Option<FrameLog>,
    // What the kernel had counted of the link when the driver started.
    link_before: PairCounters,
    // The interface is administratively up.
    pub link_up: bool,
    // Whether the workers are still to be told of `link_up`.
    pub link_changed: bool,
    // Which frames have a timestamp while nothing is captured, and whether stages are measured.
    timestamps: (RxTimestamps, bool),
    pub sockets: Sockets,
    pub info: RunInfo,
    device_info: DeviceInfo,
}

impl RunningPort {
    /// Loads the program for a device and attaches it. Nothing is redirected yet.
    pub async fn attach(
        id: PortId,
        device: Device,
        config: &RunConfig,
        plan: &Plan,
        netlink: &Netlink,
    ) -> Result<Self, StartError> {
        // A driver has its addresses on its first interface.
        let addresses = if id == PortId::FIRST { config.addresses.clone() } else { Vec::new() };
        let link = LinkEvents::open(device.index).await?;
        let link_up = link.state().is_some_and(|state| state.up);
        let mut program = SteeringProgram::load(&ProgramConfig {
            log_frames: config.log_frames,
            mac: device.mac,
            addresses: addresses.iter().map(|(address, _)| *address).collect(),
            broadcasts: broadcasts(&addresses),
            rules: plan.rules.clone(),
            // Only once there is a driver for what isn't answered, and an end of the wire that hears the answers.
            answer: false,
            answer_limit: config.answer_limit,
            timestamps: config.driver.requirements().rx_timestamps,
            latency: config.latency,
            queues: plan.queues,
        })?;
        // As above, for rules that answer.
        program.maps_mut().set_paused(true).map_err(ProgramError::from)?;
        let peer_addresses = device.peer_addresses(netlink).await?;
        let link_before = netlink.pair_counters(device.index, device.peer).await?;
        let attached = program.attach(&device.name, device.index, config.mode, config.replace)?;
        let frame_log = program.logger()?;
        let device_info = DeviceInfo {
            name: device.name.clone(),
            mac: device.mac,
            mtu: device.mtu as usize,
            queue: 0,
            queues: plan.queues,
            addresses,
            peer_addresses,
        };
        let mut port = Self {
            id,
            iface: device.name.clone(),
            sockets: Sockets::new(program.sockets()),
            program,
            answer: config.answer,
            tuned: Vec::new(),
            peer_napi: None,
            link,
            frame_log,
            link_before,
            link_up,
            link_changed: false,
            timestamps: (config.driver.requirements().rx_timestamps, config.latency),
            info: RunInfo { device, attached, queues: Vec::new(), enabled: false, tuning: None },
            device_info,
        };
        if plan.answers(config) {
            port.prepare_answers().await?;
        }
        if config.tune {
            let cpus = std::thread::available_parallelism().map_or(1, usize::from);
            let (tuning, tuned) = threaded::tune(&port.info.device, cpus).await?;
            (port.info.tuning, port.tuned) = (Some(tuning), tuned);
        }
        Ok(port)
    }

    /// What the instance of this queue is to know of the interface.
    pub fn device_info(&self, queue: u32) -> DeviceInfo {
        DeviceInfo { queue, ..self.device_info.clone() }
    }

    /// Makes the other end of a veth pair ready to hear answers of the XDP program. It stays so until the driver stops.
    pub async fn prepare_answers(&mut self) -> Result<(), PeerNapiError> {
        // In skb mode they go through the peer's ordinary receive path.
        if self.peer_napi.is_none() && self.info.attached.mode == XdpHook::Native {
            self.peer_napi = PeerNapi::prepare(&self.info.device).await?;
        }
        Ok(())
    }

    /// What the kernel counted of the link since the driver was started; `None` once the link is gone.
    pub async fn link_counters(&self, netlink: &Netlink) -> Option<PairCounters> {
        let Device { index, peer, .. } = self.info.device;
        let now = netlink.pair_counters(index, peer).await.ok()?;
        Some(now.since(&self.link_before))
    }

    /// Puts the sockets into the XSKMAP.
    pub fn claim_frames(&mut self) -> Result<(), ProgramError> {
        if !self.sockets.are_claimed() {
            self.sockets.claim()?;
            self.switch_answers();
        }
        Ok(())
    }

    /// Lets the XDP program answer exactly while the driver has its frames. A failure is logged only: the
    /// requests go to the driver then, which answers them too.
    pub fn switch_answers(&mut self) {
        let active = self.sockets.are_claimed() && self.info.enabled;
        let on = self.answer && active;
        let maps = self.program.maps_mut();
        if let Err(error) = maps.set_answer(on).and_then(|()| maps.set_paused(!active)) {
            tracing::error!(iface = %self.iface, on, "switch the answers of the XDP program: {error}");
        }
    }

    /// Gives every frame a timestamp while there is a capture. A failure is logged only: a frame without one has the
    /// time when the worker saw it.
    pub fn set_timestamps(&mut self, captured: bool) {
        let (of_driver, latency) = self.timestamps;
        let timestamps = if captured { RxTimestamps::All } else { of_driver };
        if let Err(error) = self.program.maps_mut().set_timestamps(timestamps, latency) {
            tracing::error!(iface = %self.iface, ?timestamps, "switch the timestamps of the XDP program: {error}");
        }
    }

    /// Takes the program off, and takes back what was changed.
    pub fn detach(&mut self) {
        if let Err(error) = self.program.detach() {
            tracing::warn!("{error}");
        }
        for restored in self.tuned.drain(..).rev().map(Tuned::restore) {
            match restored {
                Ok(Some(change)) => tracing::info!(iface = %self.iface, "restored: {change}"),
                Err(error) => tracing::warn!(iface = %self.iface, "what was tuned stays: {error}"),
                // The interface is gone.
                Ok(None) => {}
            }
        }
        drop(self.peer_napi.take());
    }

    /// Takes note of what happened to the link; says whether that ends the driver.
    pub fn on_link_event(&mut self, event: LinkEvent, frame_size: FrameSize) -> Option<EndReason> {
        let up = match event {
            LinkEvent::Up => true,
            LinkEvent::Down => false,
            LinkEvent::Deleted => return Some(EndReason::LinkGone { iface: self.iface.clone() }),
            LinkEvent::MtuChanged { mtu } => {
                self.warn_about_mtu(mtu, frame_size);
                return None;
            }
            LinkEvent::CarrierUp | LinkEvent::CarrierDown => return None,
        };
        tracing::info!(iface = %self.iface, "the interface is {}", if up { "up" } else { "down" });
        (self.link_up, self.link_changed) = (up, true);
        None
    }

    fn warn_about_mtu(&self, mtu: u32, now: FrameSize) {
        let device = Device { mtu, ..self.info.device.clone() };
        let Ok(needed) = frame_size(&device) else {
            tracing::warn!(iface = %self.iface, mtu, "the MTU is now larger than a frame: the kernel drops such frames");
            return;
        };
        if needed > now {
            tracing::warn!(iface = %self.iface, mtu, "the MTU is now larger than a frame: start again to change that");
        }
    }
}
