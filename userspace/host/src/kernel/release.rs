//! The kernel's release, and which releases are known to die of what netdext does.

/// Builds of Ubuntu's 6.17.0, by flavour, from which on the panic is mended. Ubuntu leaves the third number at 0 and counts
/// its builds instead (USN-8094-1 to -5, USN-8152-1).
const UBUNTU_6_17_MENDED: [(&str, u32); 8] = [
    ("generic", 19),
    ("aws", 1009),
    ("azure", 1010),
    ("gcp", 1009),
    ("oem", 1017),
    ("oracle", 1009),
    ("raspi", 1010),
    ("realtime", 1008),
];

/// A kernel release.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Release {
    /// As `uname -r` has it.
    pub text: String,
    numbers: Option<(u32, u32, u32)>,
    suffix: String,
}

impl Release {
    /// Of a text such as `6.1.0-18-amd64`.
    pub fn new(text: &str) -> Self {
        let (numbers, suffix) = numbers(text).map_or((None, ""), |(numbers, suffix)| (Some(numbers), suffix));
        Self { text: text.to_owned(), numbers, suffix: suffix.to_owned() }
    }

    /// That of the running kernel.
    pub fn running() -> Self {
        Self::new(&rustix::system::uname().release().to_string_lossy())
    }

    /// Whether the text begins with a version.
    pub fn is_readable(&self) -> bool {
        self.numbers.is_some()
    }

    /// Whether the kernel can panic as soon as an AF_XDP socket in copy mode sends (a NULL pointer in `xsk_destruct_skb`).
    ///
    /// It can't be probed for without the panic, so it goes by the release. The record of CVE-2025-40290: in since 6.17-rc6
    /// ("xsk: Fix immature cq descriptor production") and 6.16.8, which was never mended; out since 6.18 ("xsk: avoid data
    /// corruption on cq descriptor number") and 6.17.11. Where a release does not say what is in it, it counts as one that
    /// panics: a release candidate of 6.17 or 6.18, and a distribution's build that keeps the third number at 0, save those
    /// of Ubuntu that are known to be mended.
    pub fn can_panic(&self) -> bool {
        match self.numbers {
            Some((6, 16, 0)) => build(&self.suffix).is_some(),
            Some((6, 16, patch)) => patch >= 8,
            Some((6, 17, 0)) => !is_mended_ubuntu(&self.suffix),
            Some((6, 17, patch)) => patch < 11,
            Some((6, 18, 0)) => is_candidate(&self.suffix),
            _ => false,
        }
    }
}

/// The version that a release begins with, and what follows it.
fn numbers(text: &str) -> Option<((u32, u32, u32), &str)> {
    let (major, rest) = number(text)?;
    let (minor, rest) = number(rest.strip_prefix('.')?)?;
    let (patch, rest) = rest.strip_prefix('.').and_then(number).unwrap_or((0, rest));
    Some(((major, minor, patch), rest))
}

fn number(text: &str) -> Option<(u32, &str)> {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (digits, rest) = text.split_at(end);
    Some((digits.parse().ok()?, rest))
}

/// Number and flavour of a distribution's build: 8 and `generic` of `-8-generic`.
fn build(suffix: &str) -> Option<(u32, &str)> {
    let (build, rest) = number(suffix.strip_prefix('-')?)?;
    Some((build, rest.strip_prefix('-')?))
}

fn is_mended_ubuntu(suffix: &str) -> bool {
    let Some((build, flavour)) = build(suffix) else { return false };
    let flavour = flavour.strip_suffix("-64k").unwrap_or(flavour);
    UBUNTU_6_17_MENDED.iter().any(|&(name, since)| name == flavour && build >= since)
}

/// Whether the release is a candidate: `-rc3`, `-0.rc3.20251027...`, `~rc3+deb14`.
fn is_candidate(suffix: &str) -> bool {
    let mut words = suffix.split(|c: char| !c.is_ascii_alphanumeric());
    words.any(|word| word.strip_prefix("rc").and_then(number).is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn panics(text: &str) -> bool {
        Release::new(text).can_panic()
    }

    #[test]
    fn releases_that_die_when_a_socket_sends_are_told_from_those_that_do_not() {
        for text in [
            "6.16.8",
            "6.16.12",
            "6.16.12+deb13-cloud-amd64",
            "6.16.12+deb14-cloud-amd64",
            "6.16.8-200.fc42.x86_64",
            "6.17",
            "6.17.0",
            "6.17.1-300.fc43.x86_64",
            "6.17.10",
            "6.17.10-arch1-1",
            "6.17.9-1-default",
            "6.17.8+deb14-amd64",
        ] {
            assert!(panics(text), "{text}");
        }
        for text in [
            "5.10.0-36-cloud-amd64",
            "6.1.0-41-amd64",
            "6.12.57+deb13-amd64",
            "6.15.11",
            "6.16.0",
            "6.16.3",
            "6.16.7-200.fc42.x86_64",
            "6.17.11",
            "6.17.13+deb13-cloud-amd64",
            "6.17.12-300.fc43.x86_64",
            "6.18.0",
            "6.18.1-arch1-1",
            "6.18.15+deb14-cloud-amd64",
            "6.19.0-rc1",
            "7.0.0-15-generic",
            "7.3.1",
            "16.17.1",
        ] {
            assert!(!panics(text), "{text}");
        }
    }

    #[test]
    fn builds_of_a_distribution_that_keeps_the_third_number_are_told_by_their_own() {
        for text in ["6.16.0-13-generic", "6.17.0-8-generic", "6.17.0-14-generic-64k", "6.17.0-1007-aws"] {
            assert!(panics(text), "{text}");
        }
        for text in ["6.17.0-19-generic", "6.17.0-20-generic-64k", "6.17.0-1009-aws", "6.17.0-1017-oem"] {
            assert!(!panics(text), "{text}");
        }
        // A high number says nothing of a flavour that is not known.
        assert!(panics("6.17.0-1012-oem") && panics("6.17.0-1900-mine") && panics("6.17.0-300.fc43.x86_64"));
    }

    #[test]
    fn candidates_count_as_what_they_may_be() {
        for text in [
            "6.17.0-rc6",
            "6.18-rc1",
            "6.18.0-rc7",
            "6.18.0-0.rc3.251027g.35.fc44.x86_64",
            "6.18~rc4+deb14-amd64",
        ] {
            assert!(panics(text), "{text}");
        }
        assert!(!panics("6.18.0-arc1") && !panics("6.16.0-rc7"));
    }

    #[test]
    fn what_is_no_release_is_not_judged() {
        for text in ["", "linux", "6", "6.x", ".1.2", "99999999999.1"] {
            let release = Release::new(text);
            assert!(!release.is_readable() && !release.can_panic(), "{text:?}");
        }
        assert!(Release::running().is_readable());
        assert!(Release::new("5.11-rc3").is_readable());
    }
}
