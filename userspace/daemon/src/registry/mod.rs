//! What is installed: the drivers that the daemon starts, kept in a file across its lives.
//!
//! A change is in the file before it is in memory, and in neither if it fails. A file that cannot be
//! understood, because it is damaged or of a newer netdext, is refused and left as it is.

mod error;
mod identity;
mod store;

use serde::{Deserialize, Serialize};

pub use self::error::RegistryError;
pub use self::identity::{IdentityField, InvalidIdentity, check as check_identity};
use self::store::Store;
pub use self::store::{SCHEMA_VERSION, StateDir};
use crate::control::protocol::{Identity, Selector};
use crate::spec::DriverSpec;

/// An installed driver.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Installed {
    /// Its names.
    pub identity: Identity,
    /// Whether it is to have its frames.
    pub enabled: bool,
    /// Whether it is to have power.
    pub powered: bool,
    /// What it is.
    pub spec: DriverSpec,
    /// The steering rules in force, as text, in the order in which they are tried. They begin as
    /// [`DriverSpec::steer`] and take its place when the driver is started again.
    pub rules: Vec<String>,
    /// Whether netdext made the interface, and has not yet removed it.
    pub made_link: bool,
}

impl Installed {
    /// Whether a selector means this driver.
    pub fn is_meant_by(&self, selector: &Selector) -> bool {
        selector.matches(&self.identity.team_id, &self.identity.bundle_id, self.spec.ifaces())
    }

    fn describe(&self) -> String {
        format!("{} {} on {}", self.identity.team_id, self.identity.bundle_id, self.spec.iface)
    }
}

/// The installed drivers. One process has it at a time.
#[derive(Debug)]
pub struct Registry {
    store: Store,
    drivers: Vec<Installed>,
}

impl Registry {
    /// Reads the state file and keeps its directory locked for as long as the registry lives. A missing file
    /// is an empty registry; a missing directory is made.
    ///
    /// # Errors
    ///
    /// [`RegistryError`]; nothing is changed then.
    pub fn open(dir: &StateDir) -> Result<Self, RegistryError> {
        let store = Store::lock(dir)?;
        let drivers = store::load(dir)?;
        Ok(Self { store, drivers })
    }

    /// What is installed, without the right to change it.
    ///
    /// # Errors
    ///
    /// As for [`Registry::open`], but a locked directory is none.
    pub fn read(dir: &StateDir) -> Result<Vec<Installed>, RegistryError> {
        store::load(dir)
    }

    /// The drivers in the order of their installation.
    pub fn drivers(&self) -> &[Installed] {
        &self.drivers
    }

    /// The one driver that is meant.
    ///
    /// # Errors
    ///
    /// [`RegistryError::NotFound`], [`RegistryError::Ambiguous`].
    pub fn find(&self, selector: &Selector) -> Result<&Installed, RegistryError> {
        Ok(&self.drivers[self.position(selector)?])
    }

    /// Adds a driver, enabled and powered.
    ///
    /// # Errors
    ///
    /// [`RegistryError::Invalid`], [`RegistryError::Exists`], [`RegistryError::IfaceTaken`], or it cannot be
    /// written.
    pub fn install(&mut self, identity: Identity, spec: DriverSpec) -> Result<&Installed, RegistryError> {
        let rules = spec.steer.clone();
        let mut drivers = self.drivers.clone();
        drivers.push(Installed { identity, enabled: true, powered: true, spec, rules, made_link: false });
        self.replace(drivers)?;
        Ok(&self.drivers[self.drivers.len() - 1])
    }

    /// Removes a driver and returns what it was.
    ///
    /// # Errors
    ///
    /// As for [`Registry::find`], or it cannot be written.
    pub fn uninstall(&mut self, selector: &Selector) -> Result<Installed, RegistryError> {
        let position = self.position(selector)?;
        let mut drivers = self.drivers.clone();
        let removed = drivers.remove(position);
        self.replace(drivers)?;
        Ok(removed)
    }

    /// Changes a driver. Nothing is written if nothing is different then.
    ///
    /// # Errors
    ///
    /// As for [`Registry::find`] and [`Registry::install`].
    pub fn update(
        &mut self,
        selector: &Selector,
        change: impl FnOnce(&mut Installed),
    ) -> Result<&Installed, RegistryError> {
        let position = self.position(selector)?;
        let mut drivers = self.drivers.clone();
        change(&mut drivers[position]);
        if drivers[position] != self.drivers[position] {
            self.replace(drivers)?;
        }
        Ok(&self.drivers[position])
    }

    fn position(&self, selector: &Selector) -> Result<usize, RegistryError> {
        let mut fitting = self.drivers.iter().enumerate().filter(|(_, driver)| driver.is_meant_by(selector));
        let Some((position, first)) = fitting.next() else {
            return Err(RegistryError::NotFound { selector: selector.clone() });
        };
        let others: Vec<String> = fitting.map(|(_, driver)| driver.describe()).collect();
        if others.is_empty() {
            return Ok(position);
        }
        let found = [vec![first.describe()], others].concat();
        Err(RegistryError::Ambiguous { selector: selector.clone(), found })
    }

    fn replace(&mut self, drivers: Vec<Installed>) -> Result<(), RegistryError> {
        check_all(&drivers)?;
        self.store.save(&drivers)?;
        self.drivers = drivers;
        Ok(())
    }
}

/// Refuses names that are none, and two drivers of one name or on one interface.
fn check_all(drivers: &[Installed]) -> Result<(), RegistryError> {
    for (index, driver) in drivers.iter().enumerate() {
        identity::check(&driver.identity)?;
        driver.spec.ifaces().try_for_each(identity::check_iface)?;
        for other in &drivers[..index] {
            let (new, old) = (&driver.identity, &other.identity);
            if (&new.team_id, &new.bundle_id) == (&old.team_id, &old.bundle_id) {
                return Err(RegistryError::Exists {
                    team_id: old.team_id.clone(),
                    bundle_id: old.bundle_id.clone(),
                });
            }
            if let Some(iface) =
                other.spec.ifaces().find(|taken| driver.spec.ifaces().any(|own| own == *taken))
            {
                return Err(RegistryError::IfaceTaken {
                    iface: iface.to_owned(),
                    by: format!("{} {}", old.team_id, old.bundle_id),
                });
            }
        }
    }
    Ok(())
}
