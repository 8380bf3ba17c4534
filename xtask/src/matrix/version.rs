//! Kernel versions as Debian's package names have them.

use std::cmp::Ordering;

/// What follows the version in the names of the packages that are booted: small kernels for virtual machines.
const FLAVOUR: &str = "-cloud-amd64";

/// `6.1.0-47`, `6.12.117+deb13`: ordered by version, not by letters.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Version(String);

impl Version {
    /// A version from elsewhere than a package's name.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The version in `linux-image-6.12.117+deb13-cloud-amd64`. `None` for meta packages, debug symbols, unsigned
    /// images, other flavours, and for kernels that were built anew for an older Debian (`6.1.0-0.deb11.52`).
    pub fn in_package_name(name: &str) -> Option<Self> {
        let rest = name.strip_prefix("linux-image-").or_else(|| name.strip_prefix("linux-binary-"))?;
        let version = rest.strip_suffix(FLAVOUR)?;
        let whole = version.starts_with(|first: char| first.is_ascii_digit())
            && version.matches('.').count() >= 2
            && !version.contains("-0.deb");
        whole.then(|| Self::new(version))
    }

    /// The version as it stands.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// What `uname -r` prints, and what its modules' directory is called.
    pub fn release(&self) -> String {
        format!("{self}{FLAVOUR}")
    }

    /// `6.12` of `6.12.117+deb13`.
    pub fn series(&self) -> &str {
        let second_dot = self.0.match_indices('.').nth(1).map_or(self.0.len(), |(index, _)| index);
        &self.0[..second_dot]
    }

    /// Whether `wanted` means this one: a series (`6.12`), an upstream version (`6.12.117`) or all of it.
    pub fn answers_to(&self, wanted: &str) -> bool {
        let upstream = self.0.split(['+', '-']).next().unwrap_or_default();
        [self.series(), upstream, self.as_str(), &self.release()].contains(&wanted)
    }

    /// Runs of digits, and what is between them.
    fn parts(&self) -> impl Iterator<Item = Part<'_>> {
        let mut rest = self.0.as_str();
        std::iter::from_fn(move || {
            let numeric = rest.starts_with(|first: char| first.is_ascii_digit());
            let end = rest.find(|c: char| c.is_ascii_digit() != numeric).unwrap_or(rest.len());
            let (part, left) = rest.split_at(end);
            rest = left;
            match part {
                "" => None,
                digits if numeric => Some(Part::Number(digits.parse().unwrap_or(u64::MAX))),
                text => Some(Part::Text(text)),
            }
        })
    }
}

#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Part<'a> {
    Text(&'a str),
    Number(u64),
}

impl Ord for Version {
    fn cmp(&self, other: &Self) -> Ordering {
        self.parts().cmp(other.parts())
    }
}

impl PartialOrd for Version {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl std::fmt::Display for Version {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_sorted_by_number() {
        let ascending = [
            "5.10.0-46",
            "6.1.0-9",
            "6.1.0-47",
            "6.12.90+deb12",
            "6.12.90+deb12.1",
            "6.12.117+deb13",
            "7.2.13+deb14",
            "7.3.4+deb13",
            "10.0.1+deb15",
        ];
        let mut versions: Vec<_> = ascending.iter().rev().map(|text| Version::new(*text)).collect();
        versions.sort();
        assert_eq!(versions, ascending.map(Version::new));
    }

    #[test]
    fn only_the_packages_of_a_kernel_for_virtual_machines_have_a_version() {
        let version = |name: &str| Version::in_package_name(name).map(|version| version.0);
        assert_eq!(version("linux-image-6.1.0-47-cloud-amd64").as_deref(), Some("6.1.0-47"));
        assert_eq!(version("linux-binary-7.3.4+deb13-cloud-amd64").as_deref(), Some("7.3.4+deb13"));
        for other in [
            "linux-image-6.1-cloud-amd64",
            "linux-image-cloud-amd64",
            "linux-image-6.1.0-0.deb11.52-cloud-amd64",
            "linux-image-6.1.0-47-cloud-amd64-dbg",
            "linux-image-6.1.0-47-cloud-amd64-unsigned",
            "linux-binary-unsigned-7.3.4+deb13-cloud-amd64",
            "linux-image-6.1.0-47-amd64",
            "linux-headers-6.1.0-47-cloud-amd64",
        ] {
            assert_eq!(version(other), None, "{other}");
        }
    }

    #[test]
    fn a_kernel_is_meant_by_series_by_version_and_by_its_whole_name() {
        let version = Version::new("6.12.117+deb13");
        for wanted in ["6.12", "6.12.117", "6.12.117+deb13", "6.12.117+deb13-cloud-amd64"] {
            assert!(version.answers_to(wanted), "{wanted}");
        }
        for wanted in ["6.1", "6.12.11", "6", "12"] {
            assert!(!version.answers_to(wanted), "{wanted}");
        }
        assert!(Version::new("6.1.0-47").answers_to("6.1"));
    }
}
