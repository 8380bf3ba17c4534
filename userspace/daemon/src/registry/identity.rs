//! Which names a driver may have.

use std::fmt;

use crate::control::protocol::Identity;

/// The longest team ID, in characters.
const TEAM_MAX: usize = 32;
/// The longest bundle ID, in characters: `netdext:` and it have to fit an ifalias, which has 255 (IFALIASZ).
const BUNDLE_MAX: usize = 200;
/// The longest version, in characters.
const VERSION_MAX: usize = 64;
/// The longest name, in bytes.
const NAME_MAX: usize = 128;
/// The longest name of an interface, in bytes: IFNAMSIZ without the 0 at its end.
const IFACE_MAX: usize = 15;

/// A part of what identifies a driver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IdentityField {
    /// The team ID.
    Team,
    /// The bundle ID.
    Bundle,
    /// The version.
    Version,
    /// The name.
    Name,
    /// The interface.
    Iface,
}

impl IdentityField {
    fn rule(self) -> &'static str {
        match self {
            Self::Team => "a team ID is 1 to 32 letters and digits; for example A123456789",
            Self::Bundle => {
                "a bundle ID is a reverse-DNS name of letters, digits and hyphens; for example org.netdext.sample"
            }
            Self::Version => "a version is numbers, with a build after a slash if need be; for example 1.0/1",
            Self::Name => "a name is 1 to 128 bytes of printable text",
            Self::Iface => {
                "an interface's name is 1 to 15 bytes without a slash, colon or space; for example veth0"
            }
        }
    }
}

impl fmt::Display for IdentityField {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Team => "team ID",
            Self::Bundle => "bundle ID",
            Self::Version => "version",
            Self::Name => "name",
            Self::Iface => "interface",
        })
    }
}

/// A name that is none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field} {value:?} is not valid: {}", .field.rule())]
pub struct InvalidIdentity {
    /// Which part.
    pub field: IdentityField,
    /// What it was.
    pub value: String,
}

/// Checks the names of a driver.
///
/// # Errors
///
/// [`InvalidIdentity`] of the first part that is not valid.
pub fn check(identity: &Identity) -> Result<(), InvalidIdentity> {
    let Identity { team_id, bundle_id, version, name } = identity;
    require(IdentityField::Team, team_id, is_team)?;
    require(IdentityField::Bundle, bundle_id, is_bundle)?;
    require(IdentityField::Version, version, is_version)?;
    require(IdentityField::Name, name, is_name)
}

/// Checks the name of an interface.
pub(super) fn check_iface(iface: &str) -> Result<(), InvalidIdentity> {
    require(IdentityField::Iface, iface, is_iface)
}

fn require(field: IdentityField, value: &str, valid: fn(&str) -> bool) -> Result<(), InvalidIdentity> {
    if valid(value) { Ok(()) } else { Err(InvalidIdentity { field, value: value.to_owned() }) }
}

fn is_team(text: &str) -> bool {
    (1..=TEAM_MAX).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_alphanumeric())
}

fn is_bundle(text: &str) -> bool {
    let is_label = |label: &str| {
        !label.is_empty()
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    };
    text.len() <= BUNDLE_MAX && text.contains('.') && text.split('.').all(is_label)
}

fn is_version(text: &str) -> bool {
    let is_dotted = |part: &str| {
        part.split('.').all(|number| !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit()))
    };
    let (version, build) = text.split_once('/').unwrap_or((text, "0"));
    text.len() <= VERSION_MAX && is_dotted(version) && is_dotted(build)
}

fn is_name(text: &str) -> bool {
    (1..=NAME_MAX).contains(&text.len()) && text.trim() == text && !text.chars().any(char::is_control)
}

/// As dev_valid_name() of the kernel has it.
fn is_iface(text: &str) -> bool {
    (1..=IFACE_MAX).contains(&text.len())
        && !matches!(text, "." | "..")
        && !text.chars().any(|c| c == '/' || c == ':' || c.is_whitespace() || c.is_control())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(valid: fn(&str) -> bool, good: &[&str], bad: &[&str]) {
        for text in good {
            assert!(valid(text), "{text:?} is valid");
        }
        for text in bad {
            assert!(!valid(text), "{text:?} is not valid");
        }
    }

    #[test]
    fn each_name_has_its_form() {
        let (long, longer) = ("a".repeat(128), "a".repeat(129));
        all(is_team, &["A123456789", "x", &long[..32]], &["", "A-1", "A 1", "ä", &long[..33]]);
        all(
            is_bundle,
            &["org.netdext.sample", "com.example.apple-samplecode.X", "a.b", "1.2"],
            &[
                "",
                "sample",
                "org.",
                ".org",
                "a..b",
                "a.-b",
                "a.b-",
                "a.b c",
                "a/b.c",
                &format!("a.{longer}{long}"),
            ],
        );
        all(
            is_version,
            &["1.0/1", "1", "1.2.3.4", "10/2.1"],
            &["", "v1", "1.", "1/", "/1", "1/2/3", "1.0-rc1", "1 "],
        );
        all(
            is_name,
            &["sample", "Sample driver", "Träger", &long],
            &["", " a", "a ", "a\nb", "\u{1b}[0m", &longer],
        );
        all(
            is_iface,
            &["veth0", "eth0.5", "abcdefghijklmno"],
            &["", ".", "..", "a/b", "a:b", "a b", "abcdefghijklmnop"],
        );
    }

    #[test]
    fn the_error_names_the_part_and_shows_an_example() {
        let identity = Identity {
            team_id: "A123456789".to_owned(),
            bundle_id: "sample".to_owned(),
            version: "1.0/1".to_owned(),
            name: "sample".to_owned(),
        };
        let error = check(&identity).unwrap_err();
        assert_eq!(error.field, IdentityField::Bundle);
        assert!(error.to_string().starts_with("bundle ID \"sample\" is not valid"), "{error}");
        assert!(error.to_string().contains("for example org.netdext.sample"), "{error}");
    }
}
