//! What holds the repository together: which crate knows which, what a package is made of, what the documents say.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Component, Path, PathBuf};
use std::process::Command;

use serde_json::Value;

/// Which of our crates each may use: the picture in docs/architecture.md. And which others in its tests alone.
const ARROWS: [(&str, &[&str], &[&str]); 7] = [
    ("netdext-abi", &[], &[]),
    ("netdext", &["netdext-abi"], &[]),
    ("netdext-drivers", &["netdext", "netdext-abi"], &[]),
    ("netdext-host", &["netdext", "netdext-abi"], &[]),
    ("netdext-daemon", &["netdext-host", "netdext", "netdext-abi"], &["netdext-drivers"]),
    ("netdext-cli", &["netdext-daemon", "netdext-drivers", "netdext-host", "netdext", "netdext-abi"], &[]),
    ("netdext-bench", &["netdext-host", "netdext", "netdext-abi"], &[]),
];
/// What belongs to the repository alone.
const NEVER_PACKAGED: [&str; 2] = ["netdext-tests", "xtask"];
/// What an author of a driver should not have to build: a runtime, the loader of XDP programs, command lines, and
/// whatever compiles or finds a C library.
const NOT_FOR_AUTHORS: [&str; 9] =
    ["tokio", "aya", "clap", "xsk-rs", "nix", "cc", "cmake", "pkg-config", "bindgen"];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask is in the repository").to_owned()
}

fn cargo(arguments: &[&str]) -> String {
    let output = Command::new(env!("CARGO")).args(arguments).current_dir(root()).output().expect("cargo");
    assert!(output.status.success(), "cargo {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("cargo writes UTF-8")
}

/// The packages of the workspace, as `cargo metadata` has them.
fn packages() -> Vec<Value> {
    let metadata: Value =
        serde_json::from_str(&cargo(&["metadata", "--format-version", "1", "--no-deps"])).expect("JSON");
    metadata["packages"].as_array().expect("packages").clone()
}

fn text<'a>(value: &'a Value, field: &str) -> &'a str {
    value[field].as_str().unwrap_or_default()
}

/// Each dependency of a package on a crate of ours.
fn arrows(package: &Value) -> impl Iterator<Item = &Value> {
    package["dependencies"].as_array().expect("dependencies").iter().filter(|to| to["path"].is_string())
}

#[test]
fn crates_use_only_what_is_below_them_in_the_picture() {
    let packages = packages();
    let mut wrong = Vec::new();
    for package in packages.iter().filter(|package| !NEVER_PACKAGED.contains(&text(package, "name"))) {
        let name = text(package, "name");
        let Some((_, allowed, tests)) = ARROWS.iter().find(|(known, ..)| *known == name) else {
            wrong.push(format!("{name} is not in the picture: add it here and in docs/architecture.md"));
            continue;
        };
        for to in arrows(package) {
            let (other, in_tests) = (text(to, "name"), text(to, "kind") == "dev");
            if other != name && !allowed.contains(&other) && !(in_tests && tests.contains(&other)) {
                let how = if in_tests { " in its tests" } else { "" };
                wrong.push(format!("{name} may not depend on {other}{how}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(packages.len() >= ARROWS.len() + NEVER_PACKAGED.len(), "{}", packages.len());
}

#[test]
fn an_author_builds_no_c_library_no_runtime_and_no_command_line() {
    let tree = cargo(&["tree", "--package", "netdext", "--edges", "normal,build", "--prefix", "none"]);
    let built: BTreeSet<_> = tree.lines().filter_map(|line| line.split(' ').next()).collect();
    assert!(built.contains("netdext") && built.contains("serde"), "{built:?}");
    for name in built {
        let whole = name.split(['-', '_']).next().unwrap_or_default();
        let forbidden = [name, whole].iter().any(|name| NOT_FOR_AUTHORS.contains(name));
        assert!(!forbidden, "netdext without features needs {name}");
    }
}

#[test]
fn what_can_be_packaged_has_what_a_registry_asks_for() {
    for package in packages().iter().filter(|package| !NEVER_PACKAGED.contains(&text(package, "name"))) {
        let name = text(package, "name");
        for field in ["description", "license"] {
            assert!(!text(package, field).is_empty(), "{name} has no {field}");
        }
        for to in arrows(package) {
            assert_ne!(text(to, "req"), "*", "{name} depends on {} without a version", text(to, "name"));
        }
    }
}

#[test]
fn nothing_is_included_from_outside_a_package() {
    let mut included = 0;
    for package in packages().iter().filter(|package| !NEVER_PACKAGED.contains(&text(package, "name"))) {
        let manifest = Path::new(text(package, "manifest_path"));
        let directory = manifest.parent().expect("a manifest is in a directory");
        for file in files_below(directory, "rs") {
            let source = fs::read_to_string(&file).expect("a source file");
            for name in inclusions(&source) {
                included += 1;
                let path = normal(&file.parent().expect("it is in a directory").join(name));
                assert!(path.starts_with(directory), "{} includes {name}", file.display());
            }
        }
    }
    assert!(included >= 1, "the built objects are included, and were not found");
}

/// The files that a source names in `include_str!("NAME")`, its like, and `#[path = "NAME"]`.
fn inclusions(source: &str) -> impl Iterator<Item = &str> {
    let calls = ["include!(", "include_str!(", "include_bytes!(", "include_bytes_aligned!(", "#[path ="];
    calls.into_iter().flat_map(move |call| {
        source.split(call).skip(1).filter_map(|rest| rest.trim_start().strip_prefix('"')?.split('"').next())
    })
}

/// The path without `.` and `..`; nothing has to be there.
fn normal(path: &Path) -> PathBuf {
    path.components().fold(PathBuf::new(), |mut whole, component| {
        match component {
            Component::ParentDir => drop(whole.pop()),
            Component::CurDir => {}
            other => whole.push(other),
        }
        whole
    })
}

fn files_below(directory: &Path, extension: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).expect("a directory").map(|entry| entry.expect("an entry").path()) {
        let hidden = entry.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
        if hidden || entry.ends_with("target") {
            continue;
        } else if entry.is_dir() {
            found.extend(files_below(&entry, extension));
        } else if entry.extension().is_some_and(|had| had == extension) {
            found.push(entry);
        }
    }
    found
}

#[test]
fn the_code_in_the_guide_is_that_of_the_example() {
    let example = root().join("userspace/examples/udp-echo");
    let mut sources = files_below(&example, "rs");
    sources.push(example.join("Cargo.toml"));
    let sources: Vec<_> = sources.iter().map(|file| fs::read_to_string(file).expect("a source")).collect();
    let guide = fs::read_to_string(root().join("docs/writing-a-driver.md")).expect("the guide");
    let mut blocks = 0;
    for fence in ["\n```rust\n", "\n```toml\n"] {
        for block in guide.split(fence).skip(1).map(|rest| rest.split("```").next().unwrap_or_default()) {
            blocks += 1;
            assert!(sources.iter().any(|source| source.contains(block)), "not in the example:\n{block}");
        }
    }
    assert!(blocks >= 8, "{blocks}");
}

#[test]
fn what_the_documents_name_is_there() {
    let root = root();
    let mut named = 0;
    for document in files_below(&root, "md") {
        let content = fs::read_to_string(&document).expect("a document");
        let beside = document.parent().expect("it is in a directory");
        let links = content.split("](").skip(1).filter_map(|rest| rest.split(')').next());
        let links = links.map(|link| link.split('#').next().unwrap_or_default());
        for link in links.filter(|link| !link.is_empty() && !link.contains("://")) {
            named += 1;
            assert!(beside.join(link).exists(), "{} links to {link}", document.display());
        }
        let paths = content.split('`').skip(1).step_by(2).filter(|words| is_path(words));
        for path in paths {
            assert!(root.join(path).exists(), "{} names {path}", document.display());
        }
    }
    assert!(named > 30, "{named}");
}

/// Whether words between backticks are a path from the root of the repository, and not one of what is made.
fn is_path(words: &str) -> bool {
    let folders = ["userspace/", "ebpf/", "xtask/", "tests/", "docs/", "contrib/"];
    folders.iter().any(|folder| words.starts_with(folder)) && !words.contains([' ', '\n', '*'])
}
