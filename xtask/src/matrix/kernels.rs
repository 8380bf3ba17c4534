//! Which kernels there are in the matrix, and which of the archive's packages they are.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use serde::{Deserialize, Serialize};

use crate::matrix::archive::{self, Archive};
use crate::matrix::version::Version;

/// Instead of a series: whatever is the highest.
const NEWEST: &str = "newest";

/// What is expected of netdext on a kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expectation {
    /// It does everything.
    Works,
    /// It refuses to start; the word says why, for `NETDEXT_EXPECT_REFUSAL`.
    Refuses(&'static str),
}

/// A row of the matrix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kernel {
    /// A series such as `6.12`, `newest`, or what the user has asked for.
    pub wanted: String,
    /// What is run on it.
    pub expectation: Expectation,
}

/// The matrix: series, whether the load test of every submission runs on it, and what is expected.
const MATRIX: [(&str, bool, Expectation); 6] = [
    ("6.1", true, Expectation::Works),
    ("6.12", true, Expectation::Works),
    ("6.18", false, Expectation::Works),
    (NEWEST, true, Expectation::Works),
    // AF_XDP in copy mode panics as soon as something is sent.
    ("6.16", false, Expectation::Refuses("panics")),
    ("5.10", false, Expectation::Refuses("too-old")),
];

fn row((series, _, expectation): (&str, bool, Expectation)) -> Kernel {
    Kernel { wanted: series.to_owned(), expectation }
}

/// All of the matrix.
pub fn all() -> Vec<Kernel> {
    MATRIX.map(row).to_vec()
}

/// Those of the load test.
pub fn to_load() -> Vec<Kernel> {
    MATRIX.into_iter().filter(|(_, load, _)| *load).map(row).collect()
}

/// The one whose turn it is after so many commits. A kernel on which netdext only refuses has no turn.
pub fn in_turn(commits: usize) -> Kernel {
    let works: Vec<_> = all().into_iter().filter(|kernel| kernel.expectation == Expectation::Works).collect();
    works[commits % works.len()].clone()
}

/// The kernel that the user has named: what is expected of its series, or else everything.
pub fn named(wanted: &str) -> Kernel {
    let known = all().into_iter().find(|kernel| Version::new(wanted).answers_to(&kernel.wanted));
    let expectation = known.map_or(Expectation::Works, |kernel| kernel.expectation);
    Kernel { wanted: wanted.to_owned(), expectation }
}

/// What the archive has of kernels, kept so that a second run needs no network.
#[derive(Serialize, Deserialize)]
pub struct Index {
    /// Package names by version; several packages where image and modules are apart.
    packages: BTreeMap<String, Vec<String>>,
}

impl Index {
    /// The index as it was kept, or else, or to bring it up to date, as the archive has it now.
    ///
    /// # Errors
    /// The archive can't be reached; the file can't be read or written.
    pub fn load(file: &Path, archive: &Archive, update: bool) -> anyhow::Result<Self> {
        if file.exists() && !update {
            let text = fs::read_to_string(file).with_context(|| format!("read {}", file.display()))?;
            return serde_json::from_str(&text)
                .with_context(|| format!("{} is damaged; remove it", file.display()));
        }
        let index = Self::of_packages(&archive.package_names()?);
        let text = serde_json::to_string_pretty(&index)? + "\n";
        fs::write(file, text).with_context(|| format!("write {}", file.display()))?;
        Ok(index)
    }

    fn of_packages(names: &[String]) -> Self {
        let mut packages = BTreeMap::new();
        for name in names {
            let Some(version) = Version::in_package_name(name) else { continue };
            // The image, its modules, and the list of those that are built in.
            let parts =
                ["binary", "modules", "base"].map(|part| format!("linux-{part}-{}", version.release()));
            let parts: Vec<_> = parts.into_iter().filter(|part| names.contains(part)).collect();
            let files = if parts.len() > 1 { parts } else { vec![name.clone()] };
            packages.insert(version.as_str().to_owned(), files);
        }
        Self { packages }
    }

    /// The highest version that `wanted` means, with its packages.
    ///
    /// # Errors
    /// There is none.
    pub fn resolve(&self, wanted: &str) -> anyhow::Result<Resolved> {
        let versions = self.packages.keys().map(Version::new);
        let found = versions.filter(|version| wanted == NEWEST || version.answers_to(wanted)).max();
        let Some(version) = found else {
            let series: std::collections::BTreeSet<_> = self.packages.keys().map(Version::new).collect();
            let mut series: Vec<_> = series.iter().map(Version::series).collect();
            series.dedup();
            bail!("Debian's archive has no kernel {wanted}; it has {}", series.join(", "));
        };
        let packages = self.packages[version.as_str()].clone();
        Ok(Resolved { version, packages })
    }
}

/// A kernel that the archive has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resolved {
    /// Its version.
    pub version: Version,
    /// What to fetch for it.
    packages: Vec<String>,
}

impl Resolved {
    /// Whether nothing has to be fetched for it, with the version of its package if so.
    pub fn cached(&self, archive: &Archive) -> Option<String> {
        let files: Option<Vec<_>> = self.packages.iter().map(|name| archive.fetched(name)).collect();
        archive::package_version(files?.first()?)
    }

    /// The files of its packages.
    ///
    /// # Errors
    /// One can't be fetched.
    pub fn fetch(&self, archive: &Archive) -> anyhow::Result<Vec<PathBuf>> {
        self.packages.iter().map(|name| archive.fetch(name)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn index() -> Index {
        let names = [
            "linux-image-6.1-cloud-amd64",
            "linux-image-6.1.0-9-cloud-amd64",
            "linux-image-6.1.0-47-cloud-amd64",
            "linux-image-6.1.0-0.deb11.52-cloud-amd64",
            "linux-image-6.12.90+deb12-cloud-amd64",
            "linux-image-6.12.117+deb13-cloud-amd64",
            "linux-image-7.3.4+deb13-cloud-amd64",
            "linux-binary-7.3.4+deb13-cloud-amd64",
            "linux-modules-7.3.4+deb13-cloud-amd64",
            "linux-base-7.3.4+deb13-cloud-amd64",
        ];
        Index::of_packages(&names.map(str::to_owned))
    }

    #[test]
    fn a_series_is_the_highest_version_of_it() {
        let resolve = |wanted: &str| index().resolve(wanted).unwrap();
        assert_eq!(resolve("6.1").packages, ["linux-image-6.1.0-47-cloud-amd64"]);
        assert_eq!(resolve("6.12").version, Version::new("6.12.117+deb13"));
        assert_eq!(resolve("6.12.90").version, Version::new("6.12.90+deb12"));
    }

    #[test]
    fn an_image_that_is_split_is_several_packages() {
        let expected = [
            "linux-binary-7.3.4+deb13-cloud-amd64",
            "linux-modules-7.3.4+deb13-cloud-amd64",
            "linux-base-7.3.4+deb13-cloud-amd64",
        ];
        assert_eq!(index().resolve(NEWEST).unwrap().packages, expected);
        assert_eq!(index().resolve("7.3").unwrap().packages, expected);
    }

    #[test]
    fn a_kernel_that_is_not_there_is_answered_with_those_that_are() {
        let error = index().resolve("6.13").unwrap_err().to_string();
        assert_eq!(error, "Debian's archive has no kernel 6.13; it has 6.1, 6.12, 7.3");
    }

    #[test]
    fn every_kernel_on_which_netdext_works_gets_its_turn() {
        let turns: Vec<_> = (0..5).map(|commits| in_turn(commits).wanted).collect();
        assert_eq!(turns, ["6.1", "6.12", "6.18", "newest", "6.1"]);
    }

    #[test]
    fn a_named_kernel_is_expected_to_do_what_its_series_does() {
        assert_eq!(named("6.16.3").expectation, Expectation::Refuses("panics"));
        assert_eq!(named("5.10").expectation, Expectation::Refuses("too-old"));
        assert_eq!(named("6.17").expectation, Expectation::Works);
        assert_eq!(named("newest").expectation, Expectation::Works);
    }
}
