//! The compiler and linker for `bpfel-unknown-none`.
//!
//! It takes a rustc with the sources of its `core` and a bpf-linker for the same LLVM. There are two usual places: a
//! rustup nightly with rust-src, and Debian's rustc-web with rust-web-src, which is a stable compiler that is told to
//! accept unstable options.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail, ensure};

use super::manifest::Versions;

const BPF_LINKER_VERSION: &str = "0.13.0";
const DEBIAN_RUSTC: &str = "/usr/bin/rustc";
const DEBIAN_LLVM: &str = "22";
const DEBIAN_PACKAGES: [&str; 3] = ["rustc-web", "rust-web-src", "llvm-22-dev"];
const CORE_SOURCES: &str = "lib/rustlib/src/rust/library/core/src/lib.rs";
/// Set by cargo and rustup for their children; each would change which compiler runs, or how.
const INHERITED: [&str; 7] = [
    "CARGO_BUILD_TARGET",
    "CARGO_ENCODED_RUSTFLAGS",
    "RUSTC",
    "RUSTC_WORKSPACE_WRAPPER",
    "RUSTC_WRAPPER",
    "RUSTFLAGS",
    "RUSTUP_TOOLCHAIN",
];

/// A rustc and a bpf-linker that fit together.
pub struct Toolchain {
    /// What to start cargo with, before its arguments.
    cargo: Vec<String>,
    /// A compiler other than cargo's own.
    rustc: Option<&'static str>,
    sysroot: PathBuf,
    linker: PathBuf,
    pub versions: Versions,
}

impl Toolchain {
    /// The first complete toolchain on this machine: the one whose versions are `preferred`, if it is there.
    pub fn find(root: &Path, preferred: Option<&Versions>) -> Result<Option<Self>> {
        let Some(linker) = find_linker(root) else { return Ok(None) };
        let mut found: Vec<_> = [debian(&linker)?, nightly(&linker)?].into_iter().flatten().collect();
        let wanted = found.iter().position(|candidate| Some(&candidate.versions) == preferred).unwrap_or(0);
        Ok(if found.is_empty() { None } else { Some(found.swap_remove(wanted)) })
    }

    /// What is missing and how to get it.
    pub fn how_to_install() -> &'static str {
        "no eBPF toolchain: on Debian or Ubuntu `cargo xtask build-ebpf --install` fetches one; elsewhere \
         `rustup toolchain install nightly --component rust-src` and `cargo install bpf-linker`"
    }

    /// Installs Debian's compiler and builds bpf-linker into target/tools, printing each command first.
    pub fn install(root: &Path) -> Result<()> {
        if !Path::new(DEBIAN_RUSTC).exists() || core_sources(&sysroot_of(DEBIAN_RUSTC)?).is_none() {
            ensure!(Path::new("/usr/bin/apt-get").exists(), "{}", Self::how_to_install());
            let mut apt = as_root("apt-get");
            apt.args(["install", "--yes", "--no-install-recommends"]).args(DEBIAN_PACKAGES);
            run_printed(&mut apt)?;
        }
        if find_linker(root).is_none() {
            let mut cargo = Command::new("cargo");
            cargo
                .args(["install", "bpf-linker", "--locked", "--version", BPF_LINKER_VERSION])
                .args(["--no-default-features", "--features", &format!("llvm-{DEBIAN_LLVM}"), "--root"])
                .arg(tools(root))
                .env("LLVM_PREFIX", format!("/usr/lib/llvm-{DEBIAN_LLVM}"));
            clean(&mut cargo);
            run_printed(&mut cargo)?;
        }
        Ok(())
    }

    /// Cargo, set up to build for `bpfel-unknown-none` with this toolchain and `flags` for rustc.
    pub fn cargo(&self, flags: &[String]) -> Result<Command> {
        let [program, arguments @ ..] = &*self.cargo else { bail!("no cargo in this toolchain") };
        let mut command = Command::new(program);
        clean(&mut command);
        command.args(arguments);
        if let Some(rustc) = self.rustc {
            command.env("RUSTC", rustc).env("RUSTC_BOOTSTRAP", "1");
        }
        let linker_dir = self.linker.parent().context("bpf-linker has no directory")?;
        let path = env::var_os("PATH").unwrap_or_default();
        let path = env::join_paths(std::iter::once(linker_dir.to_owned()).chain(env::split_paths(&path)))?;
        command.env("PATH", path).env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f"));
        Ok(command)
    }

    /// Where the sources of `core` are, which are compiled in.
    pub fn core_sources(&self) -> PathBuf {
        self.sysroot.join("lib/rustlib/src/rust")
    }
}

fn debian(linker: &Path) -> Result<Option<Toolchain>> {
    if !Path::new(DEBIAN_RUSTC).exists() {
        return Ok(None);
    }
    let sysroot = sysroot_of(DEBIAN_RUSTC)?;
    if core_sources(&sysroot).is_none() {
        return Ok(None);
    }
    let versions = Versions { rustc: rustc_version(DEBIAN_RUSTC, &[])?, bpf_linker: linker_version(linker)? };
    Ok(Some(Toolchain {
        cargo: vec!["cargo".into()],
        rustc: Some(DEBIAN_RUSTC),
        sysroot,
        linker: linker.to_owned(),
        versions,
    }))
}

fn nightly(linker: &Path) -> Result<Option<Toolchain>> {
    let mut rustup = Command::new("rustup");
    clean(&mut rustup);
    let Ok(answer) = rustup.args(["run", "nightly", "rustc", "--print", "sysroot"]).output() else {
        return Ok(None);
    };
    let sysroot = PathBuf::from(String::from_utf8_lossy(&answer.stdout).trim());
    if !answer.status.success() || core_sources(&sysroot).is_none() {
        return Ok(None);
    }
    let versions = Versions {
        rustc: rustc_version("rustup", &["run", "nightly", "rustc"])?,
        bpf_linker: linker_version(linker)?,
    };
    let cargo = ["rustup", "run", "nightly", "cargo"].map(Into::into).to_vec();
    Ok(Some(Toolchain { cargo, rustc: None, sysroot, linker: linker.to_owned(), versions }))
}

fn core_sources(sysroot: &Path) -> Option<PathBuf> {
    Some(sysroot.join(CORE_SOURCES)).filter(|path| path.exists())
}

fn sysroot_of(rustc: &str) -> Result<PathBuf> {
    Ok(output(rustc, &["--print", "sysroot"])?.into())
}

/// Release and LLVM version: what decides about the generated code.
fn rustc_version(program: &str, arguments: &[&str]) -> Result<String> {
    let verbose = output(program, &[arguments, &["--version", "--verbose"]].concat())?;
    let field = |name: &str| {
        let line = verbose.lines().find_map(|line| line.strip_prefix(name));
        line.map(str::trim).with_context(|| format!("`{program} --version` names no {name}"))
    };
    Ok(format!("{} ({}), LLVM {}", field("release:")?, field("commit-hash:")?, field("LLVM version:")?))
}

fn linker_version(linker: &Path) -> Result<String> {
    let linker = linker.to_str().context("the path of bpf-linker isn't UTF-8")?;
    Ok(output(linker, &["--version"])?.trim_start_matches("bpf-linker ").to_owned())
}

fn tools(root: &Path) -> PathBuf {
    root.join("target/tools")
}

fn find_linker(root: &Path) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    std::iter::once(tools(root).join("bin"))
        .chain(env::split_paths(&path))
        .map(|directory| directory.join("bpf-linker"))
        .find(|file| fs::metadata(file).is_ok_and(|metadata| metadata.is_file()))
}

fn clean(command: &mut Command) {
    for variable in INHERITED {
        command.env_remove(variable);
    }
}

fn as_root(program: &str) -> Command {
    if rustix::process::geteuid().is_root() {
        return Command::new(program);
    }
    let mut sudo = Command::new("sudo");
    sudo.arg(program);
    sudo
}

fn output(program: &str, arguments: &[&str]) -> Result<String> {
    let mut command = Command::new(program);
    clean(&mut command);
    let answer = command.args(arguments).output().with_context(|| format!("starting {program} failed"))?;
    ensure!(answer.status.success(), "{program} {} failed: {}", arguments.join(" "), answer.status);
    Ok(String::from_utf8(answer.stdout)?.trim().to_owned())
}

/// Prints a command, runs it, and fails when it does.
pub fn run_printed(command: &mut Command) -> Result<()> {
    let program = command.get_program().to_string_lossy().into_owned();
    let arguments: Vec<_> = command.get_args().map(|argument| argument.to_string_lossy()).collect();
    println!("+ {program} {}", arguments.join(" "));
    let status = command.status().with_context(|| format!("starting {program} failed"))?;
    ensure!(status.success(), "{program} failed: {status}");
    Ok(())
}
