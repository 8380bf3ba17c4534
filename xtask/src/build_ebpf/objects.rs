//! The XDP objects: where their sources are, and what has to be in them.

use netdext_abi::{generate, maps};

/// One object in userspace/host/object.
pub struct Object {
    /// What it is, for people.
    pub title: &'static str,
    /// The folder of its crate.
    pub folder: &'static str,
    /// Its crate.
    pub package: &'static str,
    /// Its binary.
    pub binary: &'static str,
    /// The built file.
    pub file: &'static str,
    /// What is said about that.
    pub manifest: &'static str,
    /// What it is made of, besides the registry's crates that the lock file names.
    pub sources: [&'static str; 4],
    /// Its XDP programs.
    pub programs: &'static [&'static str],
    /// Its maps, the ring buffer of aya-log included.
    pub maps: &'static [&'static str],
    /// Constants that the loader sets.
    pub globals: &'static [&'static str],
    /// The sections that a rebuild has to give again.
    pub compared: &'static [&'static str],
}

/// Of aya-log, besides the maps of our own.
const LOG_MAP: &str = "AYA_LOGS";

const DRIVER_MAPS: [&str; maps::MAP_NAMES.len() + 1] = {
    let mut names = [LOG_MAP; maps::MAP_NAMES.len() + 1];
    let mut index = 0;
    while index < maps::MAP_NAMES.len() {
        names[index] = maps::MAP_NAMES[index];
        index += 1;
    }
    names
};

/// Every object.
pub static OBJECTS: [Object; 2] = [
    Object {
        title: "the driver's XDP program",
        folder: "ebpf/program",
        package: "netdext-ebpf",
        binary: "netdext",
        file: "userspace/host/object/netdext.bpf.o",
        manifest: "userspace/host/object/manifest.json",
        sources: ["ebpf/abi/src", "ebpf/program/Cargo.lock", "ebpf/program/Cargo.toml", "ebpf/program/src"],
        programs: &maps::PROGRAM_NAMES,
        maps: &DRIVER_MAPS,
        globals: &[maps::LOG_FRAMES],
        // The program, what it calls, its licence, its maps and its constants.
        compared: &["xdp", ".text", "license", "maps", ".rodata"],
    },
    Object {
        title: "the traffic programs",
        folder: "ebpf/generate",
        package: "netdext-generate-ebpf",
        binary: "netdext-generate",
        file: "userspace/host/object/netdext-generate.bpf.o",
        manifest: "userspace/host/object/generate-manifest.json",
        sources: [
            "ebpf/abi/src",
            "ebpf/generate/Cargo.lock",
            "ebpf/generate/Cargo.toml",
            "ebpf/generate/src",
        ],
        programs: &generate::PROGRAM_NAMES,
        maps: &generate::MAP_NAMES,
        globals: &[],
        compared: &["xdp", "license", "maps"],
    },
];
