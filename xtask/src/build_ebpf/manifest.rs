//! What is said about the built object: of which sources and by which tools it was made.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::objects::Object;

/// The tools that decide about the generated code.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Versions {
    pub rustc: String,
    pub bpf_linker: String,
}

/// The file beside an object in userspace/host/object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    pub sources_sha256: String,
    pub object_sha256: String,
    #[serde(flatten)]
    pub tools: Versions,
}

impl Manifest {
    pub fn read(root: &Path, object: &Object) -> Result<Self> {
        let path = root.join(object.manifest);
        let text = fs::read(&path)
            .with_context(|| format!("{} can't be read; run `cargo xtask build-ebpf`", path.display()))?;
        serde_json::from_slice(&text).with_context(|| format!("{} isn't a manifest", path.display()))
    }

    pub fn write(&self, root: &Path, object: &Object) -> Result<()> {
        let path = root.join(object.manifest);
        let text = serde_json::to_string_pretty(self)? + "\n";
        fs::write(&path, text).with_context(|| format!("writing {} failed", path.display()))
    }
}

/// SHA-256 over names and contents of the sources, in order of their names.
pub fn hash_sources(root: &Path, object: &Object) -> Result<String> {
    let mut files = Vec::new();
    for source in object.sources {
        collect(&root.join(source), &mut files)?;
    }
    files.sort();
    let mut hash = Sha256::new();
    for file in files {
        let content = fs::read(&file).with_context(|| format!("reading {} failed", file.display()))?;
        let name = file.strip_prefix(root)?.to_str().context("a source's name isn't UTF-8")?;
        // The lengths keep one file's end and the next one's beginning apart.
        for part in [name.as_bytes(), &content] {
            hash.update((part.len() as u64).to_le_bytes());
            hash.update(part);
        }
    }
    Ok(hex(&hash.finalize()))
}

/// SHA-256 of bytes, in hexadecimal.
pub fn sha256(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn collect(path: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    let failed = || format!("reading {} failed", path.display());
    if !fs::metadata(path).with_context(failed)?.is_dir() {
        files.push(path.to_owned());
        return Ok(());
    }
    for entry in fs::read_dir(path).with_context(failed)? {
        collect(&entry?.path(), files)?;
    }
    Ok(())
}
