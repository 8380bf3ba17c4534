//! What XDP program sits on an interface, by rtnetlink (`IFLA_XDP`), and taking one off that sits there by netlink.

use std::fmt;

use aya::programs::loaded_programs;
use rtnetlink::{
    LinkUnspec,
    packet_route::link::{LinkAttribute, LinkXdp},
};
use serde::Serialize;

use crate::link::netlink::{DeviceError, Netlink, blocking, failed};

/// Where in the receive path a program runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum XdpHook {
    /// In the driver, before there is an skb.
    Native,
    /// In the stack, on an skb ("generic").
    Skb,
    /// In the device itself.
    Hardware,
}

impl XdpHook {
    /// `XDP_FLAGS_*` of linux/if_link.h.
    const fn flags(self) -> u32 {
        match self {
            Self::Skb => 1 << 1,
            Self::Native => 1 << 2,
            Self::Hardware => 1 << 3,
        }
    }
}

impl fmt::Display for XdpHook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Native => "native",
            Self::Skb => "skb",
            Self::Hardware => "hardware",
        })
    }
}

/// The XDP program of an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct XdpAttachment {
    /// The kernel's number of the program, as in `bpftool prog show id`.
    pub id: u32,
    /// Where it runs.
    pub mode: XdpHook,
}

impl XdpAttachment {
    /// With several programs (hardware and another) the one nearest to us counts.
    pub(crate) fn of(attributes: &[LinkXdp]) -> Option<Self> {
        let each = attributes.iter().filter_map(|attribute| match attribute {
            LinkXdp::DrvProgId(id) => Some(Self { id: *id, mode: XdpHook::Native }),
            LinkXdp::SkbProgId(id) => Some(Self { id: *id, mode: XdpHook::Skb }),
            LinkXdp::HwProgId(id) => Some(Self { id: *id, mode: XdpHook::Hardware }),
            _ => None,
        });
        each.min_by_key(|program| program.mode)
    }

    /// The same with the program's name, for people.
    pub(crate) fn named(self) -> ForeignProgram {
        ForeignProgram { id: self.id, name: program_name(self.id), mode: self.mode }
    }
}

/// An XDP program that sits on an interface, with its name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ForeignProgram {
    /// The kernel's number of the program.
    pub id: u32,
    /// Its name; `None` without `CAP_SYS_ADMIN`, which the kernel asks for.
    pub name: Option<String>,
    /// Where it runs.
    pub mode: XdpHook,
}

impl fmt::Display for ForeignProgram {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.name.as_deref().unwrap_or("(name not readable)");
        write!(f, "{name} (id {}, {} mode)", self.id, self.mode)
    }
}

/// The XDP program on an interface of the calling thread's network namespace; `None` when there is none, or no such
/// interface. Blocks.
///
/// # Errors
///
/// The kernel refused, or there is no netlink socket or thread to be had.
pub fn attached_program(ifindex: u32) -> Result<Option<ForeignProgram>, DeviceError> {
    Ok(attachment(ifindex)?.map(XdpAttachment::named))
}

/// The same without the name, which takes a look at every program.
pub(crate) fn attachment(ifindex: u32) -> Result<Option<XdpAttachment>, DeviceError> {
    let message = blocking(async || Netlink::open()?.link_by_index(ifindex).await)??;
    let attributes = message.map(|message| message.attributes).unwrap_or_default();
    Ok(attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::Xdp(xdp) => XdpAttachment::of(xdp),
        _ => None,
    }))
}

/// Takes the program off that sits there by netlink. One that is held by a bpf_link is refused with `EBUSY`. Blocks.
pub(crate) fn detach(ifindex: u32, mode: XdpHook) -> Result<(), DeviceError> {
    let xdp = vec![LinkXdp::Fd(-1), LinkXdp::Flags(mode.flags())];
    let message = LinkUnspec::new_with_index(ifindex).append_extra_attribute(LinkAttribute::Xdp(xdp)).build();
    blocking(async || {
        let reply = Netlink::open()?.route().link().set(message).execute().await;
        reply.map_err(|e| failed(format!("detach the XDP program of interface {ifindex}"), e))
    })?
}

fn program_name(id: u32) -> Option<String> {
    let info = loaded_programs().filter_map(Result::ok).find(|info| info.id() == id)?;
    info.name_as_str().filter(|name| !name.is_empty()).map(ToOwned::to_owned)
}

#[cfg(test)]
mod tests {
    use rtnetlink::packet_route::link::XdpAttached;

    use super::*;

    #[test]
    fn a_single_program_is_named_with_its_mode() {
        let xdp = [LinkXdp::Attached(XdpAttached::SocketBuffer), LinkXdp::ProgId(7), LinkXdp::SkbProgId(7)];
        assert_eq!(XdpAttachment::of(&xdp), Some(XdpAttachment { id: 7, mode: XdpHook::Skb }));
    }

    #[test]
    fn of_several_programs_the_native_one_is_named() {
        let xdp = [LinkXdp::Attached(XdpAttached::Multiple), LinkXdp::HwProgId(9), LinkXdp::DrvProgId(8)];
        assert_eq!(XdpAttachment::of(&xdp), Some(XdpAttachment { id: 8, mode: XdpHook::Native }));
    }

    #[test]
    fn no_program_is_none() {
        assert_eq!(XdpAttachment::of(&[LinkXdp::Attached(XdpAttached::None)]), None);
        assert_eq!(XdpAttachment::of(&[]), None);
    }
}
