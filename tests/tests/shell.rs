//! Completions and manual pages, judged by the programs that read them.

use std::path::Path;
use std::process::{Command, Output};

use netdext_tests::process::binary;
use netdext_tests::require;

fn netdext(arguments: &[&str]) -> Output {
    Command::new(binary()).args(arguments).output().expect("netdext can be started")
}

fn text(arguments: &[&str]) -> String {
    let output = netdext(arguments);
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).expect("text")
}

#[test]
fn bash_completes_commands_flags_and_values() {
    require!("bash");
    let directory = tempfile::tempdir().unwrap();
    let script = directory.path().join("netdext.bash");
    std::fs::write(&script, text(&["completions", "bash"])).unwrap();
    let complete = |words: &str| {
        let ask = r#"set -u; . "$0"; COMP_WORDS=($1); COMP_CWORD=$((${#COMP_WORDS[@]} - 1));
            _netdext netdext "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD - 1]}"; echo "${COMPREPLY[@]}""#;
        let output = Command::new("bash").args(["-c", ask]).arg(&script).arg(words).output().unwrap();
        assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    assert!(Command::new("bash").arg("-n").arg(&script).status().unwrap().success());
    assert_eq!(complete("netdext sta").trim(), "stats");
    assert_eq!(complete("netdext stats --wa").trim(), "--watch");
    assert_eq!(complete("netdext completions zs").trim(), "zsh");
}

#[test]
fn there_are_completions_for_other_shells() {
    require!();
    for (shell, sign) in [("zsh", "#compdef netdext"), ("fish", "complete -c netdext"), ("elvish", "netdext")]
    {
        assert!(text(&["completions", shell]).contains(sign), "{shell}");
    }
    let unknown = netdext(&["completions", "csh"]);
    assert_eq!(unknown.status.code(), Some(2), "{unknown:?}");
}

/// What man makes of a page; its warnings count as errors.
fn read_page(page: &Path) -> String {
    let mut man = Command::new("man");
    man.args(["--local-file", "--warnings"]).arg(page).env("MANWIDTH", "100").env("LC_ALL", "C.UTF-8");
    let output = man.output().expect("man can be started");
    assert!(output.status.success() && output.stderr.is_empty(), "{}: {output:?}", page.display());
    String::from_utf8(output.stdout).expect("text")
}

#[test]
fn man_reads_a_page_for_netdext_and_each_of_its_commands() {
    require!("man");
    let directory = tempfile::tempdir().unwrap();
    assert_eq!(text(&["man", directory.path().to_str().unwrap()]), "");
    let main = directory.path().join("netdext.1");
    let page = read_page(&main);
    assert!(page.contains("User-space Ethernet drivers over AF_XDP"), "{page}");
    let help = text(&["--help"]);
    let commands =
        help.lines().skip_while(|line| *line != "Commands:").skip(1).take_while(|line| !line.is_empty());
    let commands: Vec<_> = commands.filter_map(|line| line.split_whitespace().next()).collect();
    assert!(commands.contains(&"stats") && commands.contains(&"top"), "{commands:?}");
    for command in commands.into_iter().filter(|command| *command != "help") {
        let page = read_page(&directory.path().join(format!("netdext-{command}.1")));
        assert!(page.contains("NAME") && page.contains("OPTIONS"), "{command}:\n{page}");
    }
    assert_eq!(text(&["man"]), std::fs::read_to_string(main).unwrap());
}

#[test]
fn a_directory_for_manual_pages_that_is_not_there_is_said_on_one_line() {
    require!();
    let output = netdext(&["man", "/nonexistent/man"]);
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!((output.status.code(), stderr.lines().count()), (Some(1), 1), "{stderr}");
    assert!(stderr.contains("/nonexistent/man"), "{stderr}");
}
