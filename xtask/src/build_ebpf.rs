//! `cargo xtask build-ebpf`: the one way to write userspace/host/object.

pub mod manifest;
pub mod objects;
pub mod toolchain;

use std::{
    env, fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};

use manifest::{Manifest, hash_sources, sha256};
use objects::{OBJECTS, Object};
use toolchain::{Toolchain, run_printed};

const TARGET: &str = "bpfel-unknown-none";

/// Arguments of `build-ebpf`.
#[derive(clap::Args)]
pub struct Args {
    /// Install the toolchain first where it is missing (Debian, Ubuntu)
    #[arg(long)]
    install: bool,
}

/// Builds every XDP object and writes it with its manifest.
pub fn run(args: Args) -> Result<()> {
    let root = root();
    for object in &OBJECTS {
        let Some(toolchain) = find_or_install(&root, object, args.install)? else {
            bail!(Toolchain::how_to_install())
        };
        let built = build(&root, object, &toolchain)?;
        let path = root.join(object.file);
        fs::create_dir_all(path.parent().context("the object has no directory")?)?;
        fs::write(&path, &built).with_context(|| format!("writing {} failed", path.display()))?;
        let manifest = Manifest {
            sources_sha256: hash_sources(&root, object)?,
            object_sha256: sha256(&built),
            tools: toolchain.versions,
        };
        manifest.write(&root, object)?;
        println!("wrote {} ({} bytes) and its manifest", path.display(), built.len());
    }
    Ok(())
}

/// The repository.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().map(Path::to_owned).unwrap_or_default()
}

/// The toolchain that made the present object if it is here, else any, else, when asked to, a newly installed one.
pub fn find_or_install(root: &Path, object: &Object, install: bool) -> Result<Option<Toolchain>> {
    let preferred = Manifest::read(root, object).ok().map(|manifest| manifest.tools);
    if install && Toolchain::find(root, preferred.as_ref())?.is_none() {
        Toolchain::install(root)?;
    }
    Toolchain::find(root, preferred.as_ref())
}

/// Builds the object in target/ebpf and returns its bytes.
pub fn build(root: &Path, object: &Object, toolchain: &Toolchain) -> Result<Vec<u8>> {
    let target_dir = root.join("target/ebpf");
    let program = root.join(object.folder);
    let flags = rustc_flags(root, toolchain)?;
    // Cargo keeps what was built with other paths remapped; a rebuild has to be one.
    let mut clean = toolchain.cargo(&flags)?;
    clean.current_dir(&program).args(["clean", "--quiet", "--release", "--target", TARGET, "--target-dir"]);
    run_printed(clean.arg(&target_dir).args(["--package", object.package, "--package", "netdext-abi"]))?;
    let mut cargo = toolchain.cargo(&flags)?;
    cargo
        .current_dir(&program)
        .args(["build", "--locked", "--release", "-Z", "build-std=core", "--target", TARGET, "--target-dir"])
        .arg(&target_dir);
    run_printed(&mut cargo)?;
    let built = target_dir.join(TARGET).join("release").join(object.binary);
    let object = fs::read(&built).with_context(|| format!("reading {} failed", built.display()))?;
    without_debug_info(&object)
}

/// The flags are part of what makes the object: no path of this machine may get into it.
fn rustc_flags(root: &Path, toolchain: &Toolchain) -> Result<Vec<String>> {
    let cargo_home = env::var_os("CARGO_HOME")
        .map(PathBuf::from)
        .or_else(|| env::home_dir().map(|home| home.join(".cargo")))
        .context("neither CARGO_HOME nor a home directory")?;
    let mut flags = vec![
        // Only the layout of registers at tracepoints depends on it, which an XDP program never sees.
        "--cfg=bpf_target_arch=\"x86_64\"".to_owned(),
        "-Cdebuginfo=2".to_owned(),
        "-Clink-arg=--btf".to_owned(),
        // The kernel refuses unaligned loads only on processors that can't do them; none of those has a use for this.
        "-Clink-arg=--cpu-features=+allows-misaligned-mem-access".to_owned(),
    ];
    let mut remapped = vec![(cargo_home.clone(), "/cargo"), (toolchain.core_sources(), "/rust")];
    // Named after the host that the crates were fetched from.
    if let Ok(sources) = fs::read_dir(cargo_home.join("registry/src")) {
        for source in sources {
            remapped.push((source?.path(), "/crates"));
        }
    }
    remapped.push((root.to_owned(), "/netdext"));
    // The last match counts, so the more special path comes later.
    for (from, to) in remapped {
        let from = from.to_str().with_context(|| format!("the path {} isn't UTF-8", from.display()))?;
        flags.push(format!("--remap-path-prefix={from}={to}"));
    }
    Ok(flags)
}

/// Takes DWARF out, nine tenths of the file, which nobody reads: BTF has the lines that the verifier's log shows.
fn without_debug_info(object: &[u8]) -> Result<Vec<u8>> {
    let mut elf =
        object::build::elf::Builder::read(object).context("the linker's output isn't an ELF file")?;
    for section in &mut elf.sections {
        let name = section.name.as_slice();
        section.delete = name.starts_with(b".debug") || name.starts_with(b".rel.debug");
    }
    // LLVM keeps section names among the symbols' names; the writer wants a table of their own for them.
    let names = elf.sections.add();
    names.name = ".shstrtab".into();
    names.sh_type = object::elf::SHT_STRTAB;
    names.data = object::build::elf::SectionData::SectionString;
    elf.delete_orphans();
    let mut stripped = Vec::new();
    elf.write(&mut stripped).context("writing the stripped object failed")?;
    Ok(stripped)
}
