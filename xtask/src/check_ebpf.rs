//! `cargo xtask check-ebpf`: are the objects in userspace/host/object what their sources say, do they judge frames as the host
//! does, and how much has the kernel's verifier to do for them?

use std::{collections::BTreeMap, fs, path::Path, process::Command};

use anyhow::{Context as _, Result, ensure};
use object::{
    Object as _, ObjectSection as _, ObjectSymbol as _, SymbolKind,
    read::elf::{ElfFile64, ElfSymbol64},
};

use crate::build_ebpf::{
    build, find_or_install,
    manifest::{Manifest, hash_sources, sha256},
    objects::{OBJECTS, Object},
    root,
    toolchain::{Toolchain, run_printed},
};

const LICENCE: &[u8] = b"Dual MIT/GPL\0";

/// Arguments of `check-ebpf`.
#[derive(clap::Args)]
pub struct Args {
    /// Install the toolchain first where it is missing (Debian, Ubuntu), so that the object is rebuilt and compared
    #[arg(long)]
    install: bool,
}

/// Runs all checks that can be run here; one that can't says so.
pub fn run(args: Args) -> Result<()> {
    let root = root();
    for object in &OBJECTS {
        check_object(&root, object, args.install).with_context(|| object.file)?;
    }
    check_verdicts(&root)
}

fn check_object(root: &Path, spec: &Object, install: bool) -> Result<()> {
    let path = root.join(spec.file);
    let object = fs::read(&path)
        .with_context(|| format!("{} can't be read; run `cargo xtask build-ebpf`", path.display()))?;
    let manifest = Manifest::read(root, spec)?;
    ensure!(
        manifest.sources_sha256 == hash_sources(root, spec)?,
        "the sources of {} have changed since {} was built; run `cargo xtask build-ebpf`",
        spec.title,
        path.display()
    );
    ensure!(
        manifest.object_sha256 == sha256(&object),
        "{} isn't the file that its manifest describes; run `cargo xtask build-ebpf`",
        path.display()
    );
    println!("ok: {} is the one that was built from its sources", spec.file);
    check_names(&object, spec)?;
    println!("ok: programs, maps, globals and licence of {}", spec.file);
    check_rebuild(root, spec, &object, &manifest, install)
}

fn check_names(object: &[u8], spec: &Object) -> Result<()> {
    let elf = ElfFile64::<object::Endianness>::parse(object).context("the object isn't an ELF file")?;
    let in_section = |symbol: &ElfSymbol64<'_, '_>, section: &str| {
        let index = symbol.section_index();
        index.and_then(|index| elf.section_by_index(index).ok()?.name().ok()) == Some(section)
    };
    let expect = |name: &str, section: &str| {
        let symbol = elf.symbols().find(|symbol| symbol.name() == Ok(name));
        ensure!(
            symbol.is_some_and(|symbol| in_section(&symbol, section)),
            "the object has no {name} in its section {section}"
        );
        Ok(())
    };
    let count = |section: &str, kind| {
        elf.symbols().filter(|symbol| in_section(symbol, section) && symbol.kind() == kind).count()
    };
    for (names, section) in [(spec.programs, "xdp"), (spec.globals, ".rodata"), (spec.maps, "maps")] {
        for name in names {
            expect(name, section)?;
        }
    }
    let maps = count("maps", SymbolKind::Data);
    ensure!(maps == spec.maps.len(), "the object has {maps} maps, not {}", spec.maps.len());
    let programs = count("xdp", SymbolKind::Text);
    ensure!(
        programs == spec.programs.len(),
        "the object has {programs} XDP programs, not {}",
        spec.programs.len()
    );
    let licence = elf.section_by_name("license").context("the object has no licence")?;
    ensure!(licence.data()? == LICENCE, "the licence of the object isn't \"Dual MIT/GPL\"");
    Ok(())
}

fn check_rebuild(
    root: &Path,
    spec: &Object,
    object: &[u8],
    manifest: &Manifest,
    install: bool,
) -> Result<()> {
    let Some(toolchain) = find_or_install(root, spec, install)? else {
        println!("SKIP: not rebuilt: {}", Toolchain::how_to_install());
        return Ok(());
    };
    let rebuilt = build(root, spec, &toolchain)?;
    check_names(&rebuilt, spec)?;
    if toolchain.versions != manifest.tools {
        println!(
            "SKIP: rebuilt, but not compared: the object was made by {:?}, here is {:?}",
            manifest.tools, toolchain.versions
        );
        return Ok(());
    }
    let (committed, rebuilt) = (sections(object)?, sections(&rebuilt)?);
    for name in spec.compared {
        ensure!(
            committed.get(*name) == rebuilt.get(*name),
            "section {name} differs from a rebuild with the same tools; run `cargo xtask build-ebpf`"
        );
    }
    println!("ok: a rebuild gives the same {}", spec.compared.join(", "));
    Ok(())
}

/// A section's contents and its relocations: an instruction that refers to a map holds no more than zeros.
#[derive(PartialEq, Eq)]
struct Section {
    data: Vec<u8>,
    relocations: Vec<String>,
}

/// Sections by name.
fn sections(object: &[u8]) -> Result<BTreeMap<String, Section>> {
    let elf = ElfFile64::<object::Endianness>::parse(object).context("the object isn't an ELF file")?;
    let mut sections = BTreeMap::new();
    for section in elf.sections() {
        let relocations = section
            .relocations()
            .map(|(offset, relocation)| match relocation.target() {
                object::RelocationTarget::Symbol(index) => {
                    let symbol = elf.symbol_by_index(index)?;
                    // Compiler-made names hold a hash of paths; where they point to is what counts.
                    let place = (symbol.section_index(), symbol.address());
                    Ok(format!("{offset:#x}: {place:?} {:?}", relocation.addend()))
                }
                other => Ok(format!("{offset:#x}: {other:?}")),
            })
            .collect::<Result<Vec<_>>>()?;
        let data = section.data()?.to_vec();
        sections.insert(section.name()?.to_owned(), Section { data, relocations });
    }
    Ok(sections)
}

fn check_verdicts(root: &Path) -> Result<()> {
    if !rustix::process::geteuid().is_root() {
        println!("SKIP: the verdict table and the verifier's figures need root");
        return Ok(());
    }
    let mut tests = Command::new("cargo");
    tests.current_dir(root).args(["test", "--quiet", "--package", "netdext-tests", "--test", "ebpf_object"]);
    run_printed(&mut tests)?;
    println!("ok: the kernel's verdicts are those of the host");
    // What it prints is the figures.
    let mut verifier = Command::new("cargo");
    verifier.current_dir(root).args(["test", "--quiet", "--package", "netdext-tests", "--test", "verifier"]);
    run_printed(&mut verifier)?;
    println!(
        "ok: the verifier takes every program, within the figures of userspace/host/object/verifier.json"
    );
    Ok(())
}
