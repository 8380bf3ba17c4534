//! The control plane: what clients ask of a running netdext, and how.
//!
//! A process that runs drivers listens on a Unix socket in the runtime directory: `control.sock` is the
//! daemon's, `run-PID.sock` that of a `netdext run`. docs/control.md describes the conversation.
//!
//! ```text
//!   Client --request line--> Server --Incoming--> owner of the drivers
//!          <--answer line---        <--Answer----
//! ```

mod client;
mod client_error;
mod connection;
pub mod driver;
pub mod ioreg;
pub mod line;
pub mod list;
pub mod protocol;
mod runtime_dir;
mod server;
pub mod single;
mod socket;
pub mod tree;

pub use self::client::{CaptureStream, Client, DEFAULT_TIMEOUT};
pub use self::client_error::ClientError;
pub use self::connection::{Answer, Incoming, Peer, Reply};
pub use self::driver::{AddedRules, ChangedRule};
pub use self::runtime_dir::{RuntimeDir, RuntimeDirError, SocketName};
pub use self::server::{LINE_BYTES, Server, ServerConfig};
pub use self::socket::{BindError, ControlSocket};
