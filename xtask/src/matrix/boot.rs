//! What a kernel boots from: its image, and an initrd with the modules that the tests need. Made once for each kernel
//! and kept.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail};

use crate::matrix::cpio::Cpio;
use crate::matrix::image;
use crate::matrix::{hash, output_of};
use crate::shell;

/// The first program of a guest.
const INIT: &str = include_str!("guest/init");
/// Modules without which there is no disk, or no test.
const REQUIRED: [&str; 5] = ["virtio_pci", "virtio_blk", "ext4", "overlay", "veth"];
/// What programs in a guest would have the kernel load, which can't be done there.
const USEFUL: [&str; 12] = [
    "virtio_net",
    "bridge",
    "dummy",
    "macvlan",
    "8021q",
    "tun",
    "ifb",
    "sch_netem",
    "sch_ingress",
    "xsk_diag",
    "af_packet_diag",
    "inet_diag",
];
/// Directories that programs and file systems are put into.
const DIRECTORIES: [&str; 9] = ["bin", "modules", "proc", "sys", "dev", "disk", "layer", "root", "tmp"];

/// A kernel that can be booted.
pub struct Bootable {
    /// The kernel's image.
    pub image: PathBuf,
    /// Its modules and what loads them.
    pub initrd: PathBuf,
}

impl Bootable {
    /// Makes it of the packages of the kernel called `release`, unless it has been made of the same before.
    ///
    /// # Errors
    /// A package or a module is not as expected; a program fails.
    pub fn make(directory: &Path, release: &str, packages: &[PathBuf]) -> anyhow::Result<Self> {
        let directory = directory.join(release);
        let bootable = Self { image: directory.join("vmlinuz"), initrd: directory.join("initrd") };
        let made_of = directory.join("made-of");
        let names: Vec<_> = packages.iter().map(|file| file.display().to_string()).collect();
        let key = hash(&[&[INIT], REQUIRED.as_slice(), &USEFUL].concat()) + "\n" + &names.join("\n");
        if fs::read_to_string(&made_of).is_ok_and(|there| there == key) {
            return Ok(bootable);
        }
        eprintln!("making an initrd for {release}");
        let tree = directory.join("tree");
        let _ = fs::remove_dir_all(&directory);
        fs::create_dir_all(&tree).with_context(|| format!("make {}", tree.display()))?;
        for package in packages {
            output_of(Command::new("dpkg-deb").arg("-x").arg(package).arg(&tree))?;
        }
        let base = base_of(&tree, release)?;
        let image = image_in(&tree, &base, release)?;
        fs::rename(&image, &bootable.image).with_context(|| format!("move {}", image.display()))?;
        let initrd = initrd(&base, release)?;
        fs::write(&bootable.initrd, initrd)
            .with_context(|| format!("write {}", bootable.initrd.display()))?;
        fs::remove_dir_all(&tree).with_context(|| format!("remove {}", tree.display()))?;
        fs::write(&made_of, key).with_context(|| format!("write {}", made_of.display()))?;
        Ok(bootable)
    }
}

/// The directory above `lib/modules`: newer packages have it in `usr`.
fn base_of(tree: &Path, release: &str) -> anyhow::Result<PathBuf> {
    let bases = [tree.to_owned(), tree.join("usr")];
    let base = bases.into_iter().find(|base| base.join("lib/modules").join(release).is_dir());
    base.with_context(|| format!("the packages of {release} have no modules"))
}

fn image_in(tree: &Path, base: &Path, release: &str) -> anyhow::Result<PathBuf> {
    let places = [
        tree.join("boot").join(format!("vmlinuz-{release}")),
        base.join("lib/modules").join(release).join("vmlinuz"),
    ];
    let image = places.into_iter().find(|place| place.is_file());
    image.with_context(|| format!("the packages of {release} have no kernel"))
}

fn initrd(base: &Path, release: &str) -> anyhow::Result<Vec<u8>> {
    output_of(Command::new(administrators("depmod")?).arg("-b").arg(base).arg(release))?;
    let mut cpio = Cpio::default();
    DIRECTORIES.iter().for_each(|directory| cpio.directory(directory));
    cpio.file("init", INIT.as_bytes());
    let busybox = shell::find_program("busybox").context("there is no busybox")?;
    if !image::libraries_of(&busybox)?.is_empty() {
        bail!("{} needs libraries; the guests need the one of the package busybox-static", busybox.display());
    }
    let content = fs::read(&busybox).with_context(|| format!("read {}", busybox.display()))?;
    cpio.file("bin/busybox", &content);
    for (number, module) in modules(base, release)?.iter().enumerate() {
        let name = module.file_stem().unwrap_or_default().to_string_lossy();
        cpio.file(&format!("modules/{number:03}-{name}"), &decompressed(module)?);
    }
    Ok(cpio.finish())
}

/// The files of the modules, each after those that it needs.
fn modules(base: &Path, release: &str) -> anyhow::Result<Vec<PathBuf>> {
    let modprobe = administrators("modprobe")?;
    let mut files = Vec::new();
    for name in REQUIRED.iter().chain(&USEFUL) {
        let mut ask = Command::new(&modprobe);
        ask.args(["-C", "/dev/null", "-S", release, "--show-depends", name]).arg("-d").arg(base);
        match output_of(&mut ask) {
            Ok(lines) => files.extend(lines.lines().filter_map(module_file)),
            Err(error) if REQUIRED.contains(name) => return Err(error),
            Err(_) => eprintln!("{release} has no module {name}"),
        }
    }
    let mut seen = std::collections::HashSet::new();
    files.retain(|file| seen.insert(file.clone()));
    Ok(files)
}

/// The path in `insmod PATH [PARAMETER]...`; what is built in has none.
fn module_file(line: &str) -> Option<PathBuf> {
    Some(line.strip_prefix("insmod ")?.split_whitespace().next()?.into())
}

/// A module as the kernel takes it from any loader.
fn decompressed(module: &Path) -> anyhow::Result<Vec<u8>> {
    let program = match module.extension().and_then(|extension| extension.to_str()) {
        Some("xz") => "xz",
        Some("zst") => "zstd",
        _ => return fs::read(module).with_context(|| format!("read {}", module.display())),
    };
    let mut command = Command::new(program);
    let output = command.arg("-dc").arg(module).output().with_context(|| format!("start {program}"))?;
    if !output.status.success() {
        bail!("{} failed: {}", shell::printable(&command), output.status);
    }
    Ok(output.stdout)
}

fn administrators(program: &str) -> anyhow::Result<PathBuf> {
    shell::find_program(program).with_context(|| format!("there is no {program}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_module_is_a_file_unless_it_is_built_in() {
        assert_eq!(module_file("insmod /x/veth.ko.xz "), Some("/x/veth.ko.xz".into()));
        assert_eq!(module_file("insmod /x/loop.ko max_loop=8"), Some("/x/loop.ko".into()));
        assert_eq!(module_file("builtin ext4"), None);
    }
}
