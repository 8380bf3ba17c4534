//! What can be wrong with the registry.

use std::io;
use std::path::PathBuf;

use super::identity::InvalidIdentity;
use crate::control::protocol::{ErrorCode, ErrorObject, Selector};

/// Why the registry cannot be used or changed. The state file is as it was.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RegistryError {
    /// The system said no.
    #[error("cannot {action} {}: {source}; the state is as it was", .path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// Another process has it.
    #[error("the state directory {} is in use by another netdext daemon: stop that one first, or set NETDEXT_STATE_DIR", .dir.display())]
    InUse {
        /// The state directory.
        dir: PathBuf,
    },
    /// The file is not what netdext writes.
    #[error("the state file {} is damaged ({reason}): put a copy back or move it away; it was left as it is", .path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// A newer netdext wrote it.
    #[error("the state file {} has schema {schema}, and this netdext knows {known}: use the newer netdext that wrote it; it was left as it is", .path.display())]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its schema.
        schema: u64,
        /// The newest schema that is known.
        known: u64,
    },
    /// A name that is none.
    #[error(transparent)]
    Invalid(#[from] InvalidIdentity),
    /// There is a driver of that name.
    #[error("{team_id} {bundle_id} is installed already: uninstall it first, or choose another --bundle-id")]
    Exists {
        /// The team ID.
        team_id: String,
        /// The bundle ID.
        bundle_id: String,
    },
    /// There is a driver on that interface.
    #[error("{iface} has a driver already, {by}: uninstall it first, or choose another interface")]
    IfaceTaken {
        /// The interface.
        iface: String,
        /// The driver that has it.
        by: String,
    },
    /// No such driver.
    #[error("{selector} is not installed: `netdext list` shows what is")]
    NotFound {
        /// What was asked for.
        selector: Selector,
    },
    /// Several drivers match.
    #[error("{selector} could be any of {}: name the team, the bundle ID or the interface", .found.join(", "))]
    Ambiguous {
        /// What was asked for.
        selector: Selector,
        /// Those that match.
        found: Vec<String>,
    },
}

impl RegistryError {
    /// Whether it is for want of permission.
    pub fn is_permission(&self) -> bool {
        matches!(self, Self::Io { source, .. } if source.kind() == io::ErrorKind::PermissionDenied)
    }
}

impl From<&RegistryError> for ErrorObject {
    fn from(error: &RegistryError) -> Self {
        let code = match error {
            RegistryError::Io { .. } | RegistryError::Damaged { .. } | RegistryError::Newer { .. } => {
                ErrorCode::Failed
            }
            RegistryError::InUse { .. } => ErrorCode::Busy,
            RegistryError::Invalid(_) => ErrorCode::BadRequest,
            RegistryError::Exists { .. } | RegistryError::IfaceTaken { .. } => ErrorCode::Exists,
            RegistryError::NotFound { .. } => ErrorCode::NotFound,
            RegistryError::Ambiguous { .. } => ErrorCode::Ambiguous,
        };
        Self::new(code, error.to_string())
    }
}
