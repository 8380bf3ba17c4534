//! Debian's archive, asked by a private apt: its package lists and downloads are under `target/matrix`, and nothing of
//! it touches what is installed on this machine.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail};

use crate::matrix::output_of;
use crate::shell;

/// Where Debian's archive is, unless `NETDEXT_DEBIAN_MIRROR` names another place.
const MIRROR: &str = "http://deb.debian.org";
/// Directory of the archive and suite: what has the kernels that people run.
const SUITES: [(&str, &str); 7] = [
    ("debian", "bullseye"),
    ("debian-security", "bullseye-security"),
    ("debian", "bookworm"),
    ("debian", "bookworm-backports"),
    ("debian", "trixie"),
    ("debian", "trixie-backports"),
    ("debian", "sid"),
];
/// The keys that the archive is signed with.
pub const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// The private apt and what it has fetched.
pub struct Archive {
    directory: PathBuf,
}

impl Archive {
    /// The archive with its files in that directory.
    ///
    /// # Errors
    /// This is not a machine with apt and dpkg; a file can't be written.
    pub fn new(directory: &Path) -> anyhow::Result<Self> {
        for program in ["apt-get", "apt-cache", "dpkg-deb"] {
            if shell::find_program(program).is_none() {
                bail!("the kernels are Debian's packages, and there is no {program} here to fetch them with");
            }
        }
        for name in ["lists/partial", "cache/archives/partial", "packages"] {
            let path = directory.join(name);
            fs::create_dir_all(&path).with_context(|| format!("make {}", path.display()))?;
        }
        let archive = Self { directory: directory.to_owned() };
        let mirror = std::env::var("NETDEXT_DEBIAN_MIRROR").unwrap_or_else(|_| MIRROR.to_owned());
        archive.write("sources.list", &sources(&mirror))?;
        archive.write("status", "")?;
        archive.write("apt.conf", &configuration(directory))?;
        Ok(archive)
    }

    fn write(&self, name: &str, text: &str) -> anyhow::Result<()> {
        let path = self.directory.join(name);
        fs::write(&path, text).with_context(|| format!("write {}", path.display()))
    }

    fn apt(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.arg("-c").arg(self.directory.join("apt.conf"));
        command
    }

    /// The names of all packages, by the newest lists.
    ///
    /// # Errors
    /// The archive can't be reached.
    pub fn package_names(&self) -> anyhow::Result<Vec<String>> {
        eprintln!("asking Debian's archive for its kernels");
        output_of(self.apt("apt-get").args(["--quiet", "update"]))?;
        let names = output_of(self.apt("apt-cache").args(["pkgnames", "linux-"]))?;
        Ok(names.lines().map(str::to_owned).collect())
    }

    /// The package as a file, fetched unless it is there.
    ///
    /// # Errors
    /// It can't be fetched.
    pub fn fetch(&self, package: &str) -> anyhow::Result<PathBuf> {
        if let Some(file) = self.fetched(package) {
            return Ok(file);
        }
        eprintln!("fetching {package}");
        let mut download = self.apt("apt-get");
        download.args(["--quiet", "download", package]).current_dir(self.directory.join("packages"));
        output_of(&mut download).context("`cargo xtask matrix --update` asks for newer kernels")?;
        self.fetched(package).with_context(|| format!("apt-get has downloaded no {package}"))
    }

    /// The package's file, if it has been fetched.
    pub fn fetched(&self, package: &str) -> Option<PathBuf> {
        let begin = format!("{package}_");
        let mut files = fs::read_dir(self.directory.join("packages")).into_iter().flatten().flatten();
        let file = files.find(|file| {
            let name = file.file_name();
            let name = name.to_string_lossy();
            name.starts_with(&begin) && name.ends_with(".deb")
        });
        file.map(|file| file.path())
    }
}

/// The version of a package by its file's name, `NAME_VERSION_ARCHITECTURE.deb`.
pub fn package_version(file: &Path) -> Option<String> {
    Some(file.file_name()?.to_str()?.split('_').nth(1)?.to_owned())
}

fn sources(mirror: &str) -> String {
    let line = |(directory, suite)| {
        format!("deb [signed-by={KEYRING} arch=amd64] {mirror}/{directory} {suite} main\n")
    };
    SUITES.map(line).concat()
}

/// What is not set here, such as a proxy, is taken from the machine's own configuration.
fn configuration(directory: &Path) -> String {
    let at = |name: &str| directory.join(name).display().to_string();
    let mut text = String::new();
    for (option, value) in [
        ("Dir::Etc::sourcelist", at("sources.list")),
        ("Dir::Etc::sourceparts", "/dev/null".to_owned()),
        ("Dir::State::lists", at("lists")),
        ("Dir::State::status", at("status")),
        ("Dir::Cache", at("cache")),
        ("Acquire::Languages", "none".to_owned()),
        // A suite that is missing would be taken for one without kernels.
        ("APT::Update::Error-Mode", "any".to_owned()),
        ("Acquire::Retries", "3".to_owned()),
        // Of a file, not of a package that is to be installed.
        ("APT::Sandbox::User", "root".to_owned()),
        ("Acquire::IndexTargets::deb::DEP-11::DefaultEnabled", "false".to_owned()),
        ("Acquire::IndexTargets::deb::DEP-11-icons-small::DefaultEnabled", "false".to_owned()),
        ("Acquire::IndexTargets::deb::DEP-11-icons::DefaultEnabled", "false".to_owned()),
        ("Acquire::IndexTargets::deb::DEP-11-icons-large::DefaultEnabled", "false".to_owned()),
    ] {
        text += &format!("{option} \"{value}\";\n");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_suite_is_signed_by_debian() {
        let text = sources("http://mirror.example");
        assert_eq!(text.lines().count(), SUITES.len());
        let security = format!(
            "deb [signed-by={KEYRING} arch=amd64] http://mirror.example/debian-security bullseye-security main"
        );
        assert!(text.lines().any(|line| line == security), "{text}");
    }

    #[test]
    fn a_package_file_says_its_version() {
        let file = Path::new("/x/linux-image-6.1.0-47-cloud-amd64_6.1.170-3_amd64.deb");
        assert_eq!(package_version(file).as_deref(), Some("6.1.170-3"));
        assert_eq!(package_version(Path::new("/x/y")), None);
    }
}
