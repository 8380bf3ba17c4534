//! What XDP program sits on an interface, by rtnetlink (`IFLA_XDP`), and taking one off that sits there by netlink.

use std::{fmt, io};

use aya::programs::loaded_programs;
use futures_util::TryStreamExt;
use rtnetlink::{
    Handle, LinkUnspec,
    packet_route::link::{LinkAttribute, LinkXdp, XdpAttached},
};
use serde::Serialize;
use thiserror::Error;

/// Where in the receive path a program runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
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

/// An XDP program that sits on an interface.
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

/// Why an interface's XDP program can't be asked for or taken off.
#[derive(Debug, Error)]
pub enum AttachmentError {
    /// No netlink socket or no thread to serve it.
    #[error("opening a route netlink socket failed")]
    Open(#[source] io::Error),
    /// The kernel refused the request.
    #[error("{operation} on interface {ifindex} failed")]
    Request {
        /// What was asked.
        operation: &'static str,
        /// The interface.
        ifindex: u32,
        /// What the kernel answered.
        source: rtnetlink::Error,
    },
}

impl AttachmentError {
    /// The kernel's error number, where the request reached it.
    #[must_use]
    pub fn raw_os_error(&self) -> Option<i32> {
        match self {
            Self::Request { source: rtnetlink::Error::NetlinkError(message), .. } => {
                message.to_io().raw_os_error()
            }
            Self::Request { .. } => None,
            Self::Open(error) => error.raw_os_error(),
        }
    }
}

/// The XDP program on an interface of the calling thread's network namespace, `None` when there is none. Blocks.
///
/// # Errors
///
/// [`AttachmentError`], also when there is no such interface.
pub fn attached_program(ifindex: u32) -> Result<Option<ForeignProgram>, AttachmentError> {
    let found = attached_id(ifindex)?;
    Ok(found.map(|(id, mode)| ForeignProgram { id, name: program_name(id), mode }))
}

/// Number and mode of the XDP program on an interface; cheaper than [`attached_program`], which looks for the name.
pub(super) fn attached_id(ifindex: u32) -> Result<Option<(u32, XdpHook)>, AttachmentError> {
    blocking(async move |handle| {
        let reply = handle.link().get().match_index(ifindex).execute().try_next().await;
        let failed = |source| AttachmentError::Request { operation: "reading IFLA_XDP", ifindex, source };
        let attributes = reply.map_err(failed)?.map(|link| link.attributes).unwrap_or_default();
        Ok(attributes.into_iter().find_map(|attribute| match attribute {
            LinkAttribute::Xdp(xdp) => program_of(&xdp),
            _ => None,
        }))
    })
}

/// Takes the program off that sits there by netlink. One that is held by a bpf_link is refused with `EBUSY`. Blocks.
pub(super) fn detach(ifindex: u32, mode: XdpHook) -> Result<(), AttachmentError> {
    blocking(async move |handle| {
        let xdp = vec![LinkXdp::Fd(-1), LinkXdp::Flags(mode.flags())];
        let message =
            LinkUnspec::new_with_index(ifindex).append_extra_attribute(LinkAttribute::Xdp(xdp)).build();
        handle.link().set(message).execute().await.map_err(|source| AttachmentError::Request {
            operation: "detaching the XDP program",
            ifindex,
            source,
        })
    })
}

/// With several programs (hardware and another) the one nearest to us counts.
fn program_of(attributes: &[LinkXdp]) -> Option<(u32, XdpHook)> {
    let mut single = None;
    let mut attached = None;
    let mut first = None;
    for attribute in attributes {
        match attribute {
            LinkXdp::ProgId(id) => single = Some(*id),
            LinkXdp::Attached(mode) => attached = Some(*mode),
            LinkXdp::DrvProgId(id) => first = Some((*id, XdpHook::Native)),
            LinkXdp::SkbProgId(id) if first.is_none() => first = Some((*id, XdpHook::Skb)),
            LinkXdp::HwProgId(id) if first.is_none() => first = Some((*id, XdpHook::Hardware)),
            _ => {}
        }
    }
    // Kernels before 4.20 name only the one program and its mode.
    let mode = match attached? {
        XdpAttached::Driver => XdpHook::Native,
        XdpAttached::SocketBuffer => XdpHook::Skb,
        XdpAttached::Hardware => XdpHook::Hardware,
        _ => return first,
    };
    single.map(|id| (id, mode)).or(first)
}

fn program_name(id: u32) -> Option<String> {
    let info = loaded_programs().filter_map(Result::ok).find(|info| info.id() == id)?;
    info.name_as_str().filter(|name| !name.is_empty()).map(ToOwned::to_owned)
}

/// Runs a netlink conversation on a thread of its own: the caller may or may not be inside a runtime, and a new thread
/// is in its creator's network namespace.
fn blocking<T: Send>(
    conversation: impl AsyncFnOnce(Handle) -> Result<T, AttachmentError> + Send,
) -> Result<T, AttachmentError> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("netdext-netlink".into()).spawn_scoped(scope, || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_io()
                .build()
                .map_err(AttachmentError::Open)?;
            runtime.block_on(async {
                let (connection, handle, _) = rtnetlink::new_connection().map_err(AttachmentError::Open)?;
                let serving = tokio::spawn(connection);
                let outcome = conversation(handle).await;
                serving.abort();
                outcome
            })
        });
        match thread.map_err(AttachmentError::Open)?.join() {
            Ok(outcome) => outcome,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_single_program_is_named_with_its_mode() {
        let xdp = [LinkXdp::Attached(XdpAttached::SocketBuffer), LinkXdp::ProgId(7), LinkXdp::SkbProgId(7)];
        assert_eq!(program_of(&xdp), Some((7, XdpHook::Skb)));
    }

    #[test]
    fn of_several_programs_the_native_one_is_named() {
        let xdp = [LinkXdp::Attached(XdpAttached::Multiple), LinkXdp::HwProgId(9), LinkXdp::DrvProgId(8)];
        assert_eq!(program_of(&xdp), Some((8, XdpHook::Native)));
    }

    #[test]
    fn no_program_is_none() {
        assert_eq!(program_of(&[LinkXdp::Attached(XdpAttached::None)]), None);
        assert_eq!(program_of(&[]), None);
    }
}
