//! The state file: read whole, written whole, never half.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{Installed, RegistryError, check_all};

/// Version of the state file; it changes when an older netdext would misunderstand it.
pub const SCHEMA_VERSION: u64 = 2;

/// The first version, in which a driver could have no options but an `injector`.
const WITH_INJECTOR: u64 = 1;

/// Where the state is unless `NETDEXT_STATE_DIR` says otherwise.
const DEFAULT: &str = "/var/lib/netdext";
/// The state.
const FILE: &str = "state.json";
/// The next state while it is being written. One left by a process that was killed is written over.
const NEXT_FILE: &str = ".state.json.next";

/// The directory of the state file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StateDir {
    path: PathBuf,
}

impl StateDir {
    /// `NETDEXT_STATE_DIR`, or `/var/lib/netdext`.
    pub fn from_env() -> Self {
        Self::at(
            std::env::var_os("NETDEXT_STATE_DIR").filter(|path| !path.is_empty()).unwrap_or(DEFAULT.into()),
        )
    }

    /// A directory of that path.
    pub fn at(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The state file.
    pub fn file(&self) -> PathBuf {
        self.path.join(FILE)
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct State {
    #[serde(rename = "schema")]
    _schema: u64,
    drivers: Vec<Installed>,
}

#[derive(Serialize)]
struct StateRef<'a> {
    schema: u64,
    drivers: &'a [Installed],
}

/// What the state file has.
pub(super) fn load(dir: &StateDir) -> Result<Vec<Installed>, RegistryError> {
    let path = dir.file();
    match fs::read(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(source) => Err(RegistryError::Io { action: "read the state file", path, source }),
        Ok(bytes) => parse(&bytes, &path),
    }
}

fn parse(bytes: &[u8], path: &Path) -> Result<Vec<Installed>, RegistryError> {
    let damaged = |reason: String| RegistryError::Damaged { path: path.to_owned(), reason };
    // The schema first, because a newer one may have any fields.
    let mut value: Value = serde_json::from_slice(bytes).map_err(|error| damaged(error.to_string()))?;
    let state: Result<State, _> = match value.get("schema").and_then(Value::as_u64) {
        // From the text, so that an error has its place.
        Some(SCHEMA_VERSION) => serde_json::from_slice(bytes),
        Some(WITH_INJECTOR) => {
            injector_to_options(&mut value);
            serde_json::from_value(value)
        }
        Some(schema) if schema > SCHEMA_VERSION => {
            return Err(RegistryError::Newer { path: path.to_owned(), schema, known: SCHEMA_VERSION });
        }
        Some(schema) => return Err(damaged(format!("there is no schema {schema}"))),
        None => return Err(damaged("it has no schema".to_owned())),
    };
    let state = state.map_err(|error| damaged(error.to_string()))?;
    check_all(&state.drivers).map_err(|error| damaged(error.to_string()))?;
    Ok(state.drivers)
}

/// Makes the present version of the first one.
fn injector_to_options(state: &mut Value) {
    let drivers = state.get_mut("drivers").and_then(Value::as_array_mut).into_iter().flatten();
    for spec in drivers.filter_map(|driver| driver.get_mut("spec").and_then(Value::as_object_mut)) {
        let options = match spec.remove("injector") {
            // Its fields are those of the sample driver's options.
            Some(injector) if !injector.is_null() => injector,
            _ if spec.get("driver").is_some_and(|name| name == "sample") => json!({ "no_injector": true }),
            _ => json!({}),
        };
        spec.insert("options".to_owned(), options);
    }
}

/// The right to write the state file: the lock of its directory.
#[derive(Debug)]
pub(super) struct Store {
    dir: StateDir,
    /// Locked; and synced after a file was renamed in it.
    handle: File,
}

impl Store {
    /// Makes the directory if it is missing, and locks it.
    pub(super) fn lock(dir: &StateDir) -> Result<Self, RegistryError> {
        let io = |action| {
            let path = dir.path.clone();
            move |source| RegistryError::Io { action, path, source }
        };
        let mut builder = DirBuilder::new();
        builder.recursive(true).mode(0o700);
        builder.create(&dir.path).map_err(io("make the state directory"))?;
        let handle = File::open(&dir.path).map_err(io("open the state directory"))?;
        match handle.try_lock() {
            Ok(()) => Ok(Self { dir: dir.clone(), handle }),
            Err(TryLockError::WouldBlock) => Err(RegistryError::InUse { dir: dir.path.clone() }),
            Err(TryLockError::Error(source)) => Err(io("lock the state directory")(source)),
        }
    }

    /// Writes the state beside the old one and then puts it in its place, so that whatever happens one of
    /// the two is there, whole.
    pub(super) fn save(&self, drivers: &[Installed]) -> Result<(), RegistryError> {
        let (file, next) = (self.dir.file(), self.dir.path.join(NEXT_FILE));
        let replaced = if drivers.is_empty() {
            // After the last driver nothing is left.
            remove_if_there(&file)
        } else {
            write_whole(&next, drivers)
                .and_then(|()| fs::rename(&next, &file))
                .inspect_err(|_| drop(fs::remove_file(&next)))
        };
        replaced.map_err(|source| RegistryError::Io {
            action: "write the state file",
            path: file,
            source,
        })?;
        // From here on the new state counts. That the directory is synced makes it outlast a loss of power; a
        // failure there is no reason to say that nothing was changed.
        if let Err(error) = self.handle.sync_all() {
            tracing::warn!(path = %self.dir.path.display(), %error, "cannot sync the state directory");
        }
        Ok(())
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        // Closing does not unlock while another process has the descriptor, as a child has until it executes its
        // program (flock(2)). Should it fail, closing is what is left.
        let _ = self.handle.unlock();
    }
}

fn write_whole(path: &Path, drivers: &[Installed]) -> io::Result<()> {
    let mut text = serde_json::to_vec_pretty(&StateRef { schema: SCHEMA_VERSION, drivers })?;
    text.push(b'\n');
    // A new file each time: one that is left over may have another mode, or be a link to elsewhere.
    remove_if_there(path)?;
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(&text)?;
    file.sync_all()
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_directory_is_free_at_once_also_while_a_child_has_the_descriptor() {
        let temp = tempfile::tempdir().unwrap();
        let dir = StateDir::at(temp.path());
        let store = Store::lock(&dir).unwrap();
        let inherited = store.handle.try_clone().unwrap();
        assert!(matches!(Store::lock(&dir), Err(RegistryError::InUse { .. })));
        drop(store);
        Store::lock(&dir).unwrap();
        drop(inherited);
    }
}
