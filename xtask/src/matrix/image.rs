//! The disk that all guests read: test programs, netdext, and the host's programs that they use, with their libraries.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail};

use crate::matrix::output_of;
use crate::shell::{self, Built};

/// What runs the plan.
const RUN: &str = include_str!("guest/run");
/// Where the test programs are in a guest.
pub const TESTS: &str = "/opt/netdext/tests";
/// Where netdext is in a guest.
pub const NETDEXT: &str = "/opt/netdext/netdext";
/// Where what it starts is.
const PROGRAMS_OF_NETDEXT: &str = "/opt/netdext";
/// The host's programs that tests and harness start. A test skips itself without one that it needs.
const PROGRAMS: [&str; 23] = [
    "arping", "bash", "bpftool", "cat", "curl", "ethtool", "head", "ip", "iperf3", "mount", "nohup",
    "nsenter", "ping", "readlink", "setpriv", "setsid", "sh", "strace", "sysctl", "tcpdump", "tshark",
    "umount", "unshare",
];
/// Files of the system that programs read.
const SYSTEM_FILES: [&str; 5] =
    ["/etc/passwd", "/etc/group", "/etc/nsswitch.conf", "/etc/protocols", "/usr/share/wireshark"];
/// What tests read of the repository, at the same path in a guest.
const OF_THE_REPOSITORY: [&str; 1] = ["userspace/host/object"];
const DIRECTORIES: [&str; 10] =
    ["dev", "etc", "proc", "root", "run", "sys", "tmp", "usr", "var/lib", "var/log"];
/// What is the same directory as that in `usr`, whichever of the two a program is found in.
const MERGED: [&str; 4] = ["bin", "sbin", "lib", "lib64"];
/// Beside what is in it: the file system's own tables, and a little room.
const OVERHEAD_MIB: u64 = 32;

/// Makes the image anew: the test programs are never the same for long.
///
/// # Errors
/// A file can't be copied; a program fails.
pub fn make(directory: &Path, netdext: &[&Built], tests: &[&Built]) -> anyhow::Result<PathBuf> {
    eprintln!("making the disk of the guests");
    let root = directory.join("root");
    let _ = fs::remove_dir_all(&root);
    for name in DIRECTORIES {
        make_directory(&root.join(name))?;
    }
    for name in MERGED {
        make_directory(&root.join("usr").join(name))?;
        symlink(format!("usr/{name}"), root.join(name)).with_context(|| format!("link {name}"))?;
    }
    write_program(&root.join("guest"), RUN.as_bytes())?;
    let mut libraries = BTreeSet::new();
    for program in netdext {
        let place = format!("{PROGRAMS_OF_NETDEXT}/{}", program.name);
        libraries.extend(strip_into(&root, &program.executable, &place)?);
    }
    for test in tests {
        libraries.extend(strip_into(&root, &test.executable, &format!("{TESTS}/{}", test.name))?);
    }
    for name in PROGRAMS {
        let Some(program) = shell::find_program(name) else { continue };
        copy_into(&root, &program)?;
        libraries.extend(libraries_of(&program)?);
    }
    for library in &libraries {
        copy_into(&root, library)?;
    }
    add_busybox(&root)?;
    for file in SYSTEM_FILES.map(Path::new).into_iter().filter(|file| file.exists()) {
        copy_all_into(&root, file)?;
    }
    let package = &tests.first().context("there is no test program")?.package;
    make_directory(&within(&root, package))?;
    let repository = package.parent().context("the tests are in a repository")?;
    for name in OF_THE_REPOSITORY {
        copy_all_into(&root, &repository.join(name))?;
    }
    let image = file_system(directory, &root)?;
    fs::remove_dir_all(&root).with_context(|| format!("remove {}", root.display()))?;
    Ok(image)
}

fn file_system(directory: &Path, root: &Path) -> anyhow::Result<PathBuf> {
    let image = directory.join("root.ext4");
    let used = output_of(Command::new("du").args(["-sm"]).arg(root))?;
    let used: u64 = used.split_whitespace().next().unwrap_or_default().parse().context("du counts")?;
    let _ = fs::remove_file(&image);
    let mke2fs = shell::find_program("mke2fs").context("there is no mke2fs")?;
    let mut command = Command::new(mke2fs);
    command.args(["-q", "-t", "ext4", "-O", "^has_journal", "-E", "root_owner=0:0", "-m", "0", "-d"]);
    output_of(command.arg(root).arg(&image).arg(format!("{}m", used + used / 10 + OVERHEAD_MIB)))?;
    Ok(image)
}

/// A path of the host in the directory that becomes the disk.
fn within(root: &Path, path: &Path) -> PathBuf {
    root.join(path.strip_prefix("/").unwrap_or(path))
}

fn make_directory(path: &Path) -> anyhow::Result<()> {
    fs::create_dir_all(path).with_context(|| format!("make {}", path.display()))
}

fn copy_into(root: &Path, file: &Path) -> anyhow::Result<()> {
    let copy = within(root, file);
    make_directory(copy.parent().context("a file is in a directory")?)?;
    fs::copy(file, &copy).with_context(|| format!("copy {}", file.display()))?;
    Ok(())
}

/// A file, or a directory with all that is in it.
fn copy_all_into(root: &Path, path: &Path) -> anyhow::Result<()> {
    if !path.is_dir() {
        return copy_into(root, path);
    }
    for entry in fs::read_dir(path).with_context(|| format!("read {}", path.display()))? {
        copy_all_into(root, &entry.with_context(|| format!("read {}", path.display()))?.path())?;
    }
    Ok(())
}

fn write_program(path: &Path, content: &[u8]) -> anyhow::Result<()> {
    fs::write(path, content).with_context(|| format!("write {}", path.display()))?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o755))
        .with_context(|| format!("make {} a program", path.display()))
}

/// A program of ours without what only a debugger reads: a disk under emulation is slow. Returns its libraries.
fn strip_into(root: &Path, program: &Path, place: &str) -> anyhow::Result<Vec<PathBuf>> {
    let copy = within(root, Path::new(place));
    make_directory(copy.parent().context("a file is in a directory")?)?;
    output_of(Command::new("strip").arg("--strip-debug").arg("-o").arg(&copy).arg(program))?;
    libraries_of(program)
}

/// Links from the names of busybox's programs to it, where there is not the host's program.
fn add_busybox(root: &Path) -> anyhow::Result<()> {
    let busybox = shell::find_program("busybox").context("there is no busybox")?;
    let content = fs::read(&busybox).with_context(|| format!("read {}", busybox.display()))?;
    write_program(&root.join("bin/busybox"), &content)?;
    for name in output_of(Command::new(&busybox).arg("--list"))?.lines() {
        let there = ["bin", "sbin"].map(|place| root.join(place).join(name));
        if !there.iter().any(|path| path.exists()) {
            symlink("busybox", root.join("bin").join(name)).with_context(|| format!("link {name}"))?;
        }
    }
    Ok(())
}

/// The shared libraries of a program, the loader among them; none if it needs none.
///
/// # Errors
/// One is not to be found on this machine.
pub fn libraries_of(program: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let output = Command::new("ldd").arg(program).output().context("start ldd")?;
    let text = String::from_utf8_lossy(&output.stdout);
    if let Some(missing) = text.lines().find(|line| line.contains("not found")) {
        bail!("{}: {}", program.display(), missing.trim());
    }
    Ok(text.lines().filter_map(library).collect())
}

/// The path in `libc.so.6 => /lib/libc.so.6 (0x7f...)` or `/lib64/ld-linux-x86-64.so.2 (0x7f...)`.
fn library(line: &str) -> Option<PathBuf> {
    let found = line.split_once("=> ").map_or(line, |(_, found)| found).trim();
    found.starts_with('/').then(|| found.split_whitespace().next().map(PathBuf::from))?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_library_is_where_the_loader_finds_it() {
        assert_eq!(library("\tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007f)"), {
            Some("/lib/x86_64-linux-gnu/libc.so.6".into())
        });
        assert_eq!(
            library("\t/lib64/ld-linux-x86-64.so.2 (0x00007f)"),
            Some("/lib64/ld-linux-x86-64.so.2".into())
        );
        assert_eq!(library("\tlinux-vdso.so.1 (0x00007ffd)"), None);
        assert_eq!(library("\tnot a dynamic executable"), None);
    }

    #[test]
    fn this_very_program_needs_the_loader() {
        let libraries = libraries_of(&std::env::current_exe().unwrap()).unwrap();
        assert!(libraries.iter().any(|path| path.to_string_lossy().contains("/ld-linux")), "{libraries:?}");
    }
}
