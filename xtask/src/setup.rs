//! `cargo xtask setup`: the packages that the build and the tests need.
//!
//! What is needed is looked for as files, not asked of the package manager: that takes no time, and it finds
//! what was installed in another way. A machine with Rust and gcc alone lacks most of the first list: xsk-rs
//! compiles libxdp and libbpf from source (m4, make, clang for their BPF objects, the headers of libelf and
//! zlib) and generates its bindings with libclang.

use std::path::Path;
use std::process::Command;

use anyhow::bail;

use crate::matrix::KEYRING;
use crate::shell;

/// Arguments of `cargo xtask setup`.
#[derive(clap::Args)]
pub struct Args {
    /// Only say what is missing; exit status 1 if something is
    #[arg(long)]
    check: bool,
    /// Also what the privileged tests need
    #[arg(long)]
    tests: bool,
    /// Also what `cargo xtask matrix` needs
    #[arg(long)]
    matrix: bool,
}

/// By what a package is recognised.
enum Sign {
    /// A program of this name.
    Program(&'static str),
    /// A C header of this name in the compiler's default directories.
    Header(&'static str),
    /// A libclang that bindgen can load.
    Libclang,
    /// A file with this path.
    File(&'static str),
}

/// Where Debian puts the Python parser of OpenMetrics.
const PROMETHEUS_CLIENT: &str = "/usr/lib/python3/dist-packages/prometheus_client/openmetrics/parser.py";

/// One thing needed, and the Debian package it comes in.
struct Need {
    package: &'static str,
    sign: Sign,
}

const fn program(name: &'static str, package: &'static str) -> Need {
    Need { package, sign: Sign::Program(name) }
}

const fn header(name: &'static str, package: &'static str) -> Need {
    Need { package, sign: Sign::Header(name) }
}

const FOR_BUILD: &[Need] = &[
    program("cc", "gcc"),
    header("stdio.h", "libc6-dev"),
    header("linux/if_xdp.h", "linux-libc-dev"),
    program("make", "make"),
    program("m4", "m4"),
    program("pkg-config", "pkg-config"),
    program("clang", "clang"),
    Need { package: "libclang1", sign: Sign::Libclang },
    header("libelf.h", "libelf-dev"),
    header("zlib.h", "zlib1g-dev"),
];

const FOR_TESTS: &[Need] = &[
    program("ip", "iproute2"),
    program("ping", "iputils-ping"),
    program("arping", "iputils-arping"),
    program("ethtool", "ethtool"),
    program("iperf3", "iperf3"),
    program("tcpdump", "tcpdump"),
    program("bpftool", "bpftool"),
    program("setpriv", "util-linux"),
    program("setsid", "util-linux"),
    program("strace", "strace"),
    program("tshark", "tshark"),
    program("python3", "python3"),
    Need { package: "python3-prometheus-client", sign: Sign::File(PROMETHEUS_CLIENT) },
    program("sysctl", "procps"),
    program("dbus-daemon", "dbus"),
    program("systemd-analyze", "systemd"),
    program("man", "man-db"),
];

/// What boots a kernel of Debian's, beside what the tests need.
const FOR_MATRIX: &[Need] = &[
    program("qemu-system-x86_64", "qemu-system-x86"),
    Need { package: "seabios", sign: Sign::File("/usr/share/seabios/bios-256k.bin") },
    program("busybox", "busybox-static"),
    program("modprobe", "kmod"),
    program("mke2fs", "e2fsprogs"),
    program("xz", "xz-utils"),
    program("zstd", "zstd"),
    program("strip", "binutils"),
    Need { package: "debian-archive-keyring", sign: Sign::File(KEYRING) },
];

/// What the packages are for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// Building netdext.
    Build,
    /// Building it and running the privileged tests.
    Tests,
    /// That, and running them on other kernels.
    Matrix,
}

/// Runs the command.
///
/// # Errors
/// Something is missing and can't be installed, or was only to be checked.
pub fn run(args: Args) -> anyhow::Result<()> {
    let purpose = match (args.matrix, args.tests) {
        (true, _) => Purpose::Matrix,
        (false, true) => Purpose::Tests,
        (false, false) => Purpose::Build,
    };
    if !args.check {
        return ensure(purpose);
    }
    let missing = missing(purpose);
    if missing.is_empty() {
        println!("nothing is missing");
        return Ok(());
    }
    bail!("missing, by the names of Debian's packages: {}", missing.join(" "))
}

/// Installs what is missing, printing the command first.
///
/// # Errors
/// Something is missing, and there is no apt-get or it fails.
pub fn ensure(purpose: Purpose) -> anyhow::Result<()> {
    let missing = missing(purpose);
    if missing.is_empty() {
        return Ok(());
    }
    if shell::find_program("apt-get").is_none() {
        bail!(
            "missing, by the names of Debian's packages: {}; install what your distribution has for them",
            missing.join(" ")
        );
    }
    apt_get(&["update"])?;
    let mut install = vec!["install", "-y", "--no-install-recommends"];
    install.extend(&missing);
    apt_get(&install)?;
    let still = self::missing(purpose);
    if !still.is_empty() {
        bail!("{} installed, but what was looked for is still not there", still.join(" "));
    }
    Ok(())
}

fn apt_get(arguments: &[&str]) -> anyhow::Result<()> {
    // By way of env, because sudo drops variables that its policy does not let through.
    let mut command: Command = shell::as_root("env", &[])?;
    command.args(["DEBIAN_FRONTEND=noninteractive", "apt-get"]).args(arguments);
    eprintln!("+ {}", shell::printable(&command));
    shell::succeed(&mut command)
}

fn missing(purpose: Purpose) -> Vec<&'static str> {
    let lists: &[&[Need]] = match purpose {
        Purpose::Build => &[FOR_BUILD],
        Purpose::Tests => &[FOR_BUILD, FOR_TESTS],
        Purpose::Matrix => &[FOR_BUILD, FOR_TESTS, FOR_MATRIX],
    };
    lists.iter().copied().flatten().filter(|need| !is_there(&need.sign)).map(|need| need.package).collect()
}

fn is_there(sign: &Sign) -> bool {
    match sign {
        Sign::Program(name) => shell::find_program(name).is_some(),
        Sign::Header(name) => {
            let multiarch = format!("/usr/include/{}-linux-gnu", std::env::consts::ARCH);
            shell::in_any(&["/usr/include", "/usr/local/include", &multiarch].map(Path::new), name)
        }
        Sign::Libclang => libclang_is_there(),
        Sign::File(path) => Path::new(path).is_file(),
    }
}

/// Looks where bindgen's loader (clang-sys) does: LIBCLANG_PATH, the library directories, each LLVM's own.
fn libclang_is_there() -> bool {
    if std::env::var_os("LIBCLANG_PATH").is_some() {
        return true;
    }
    let mut directories: Vec<_> =
        ["/usr/lib", "/usr/lib64", "/usr/local/lib", "/usr/local/lib64"].map(Into::into).into();
    directories.push(format!("/usr/lib/{}-linux-gnu", std::env::consts::ARCH).into());
    for entry in std::fs::read_dir("/usr/lib").into_iter().flatten().flatten() {
        if entry.file_name().to_string_lossy().starts_with("llvm") {
            directories.push(entry.path().join("lib"));
            directories.push(entry.path().join("lib64"));
        }
    }
    directories.iter().any(|directory| {
        let mut entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
        entries.any(|entry| is_libclang(&entry.file_name().to_string_lossy()))
    })
}

/// `libclang.so`, `libclang-14.so.1`, `libclang.so.1`; not `libclang-cpp.so`.
fn is_libclang(file: &str) -> bool {
    let Some(rest) = file.strip_prefix("libclang") else { return false };
    let version_end = rest.find(|c: char| c != '-' && c != '.' && !c.is_ascii_digit()).unwrap_or(rest.len());
    // The dot before "so" has been taken for one of the version.
    rest[..version_end].ends_with('.')
        && (rest[version_end..] == *"so" || rest[version_end..].starts_with("so."))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libclang_is_told_from_its_neighbours() {
        for good in
            ["libclang.so", "libclang.so.1", "libclang-14.so.1", "libclang-14.so", "libclang.so.14.0.6"]
        {
            assert!(is_libclang(good), "{good}");
        }
        for bad in
            ["libclang-cpp.so.14", "libclang.a", "libclangAST.a", "libLLVM.so", "libclang", "libclangso"]
        {
            assert!(!is_libclang(bad), "{bad}");
        }
    }

    #[test]
    fn a_program_that_does_not_exist_is_missing() {
        assert!(!is_there(&Sign::Program("netdext-no-such-program")));
        assert!(!is_there(&Sign::Header("netdext-no-such-header.h")));
        assert!(is_there(&Sign::Program("cc")), "cargo links with it");
    }
}
