//! netdext on a kernel that is not there: `strace` changes what some system calls return.

use std::process::Command;

use crate::Namespace;
use crate::process::binary;

/// Bytes of each field of `struct utsname`.
const UTS_FIELD: usize = 65;

/// netdext, which sees the kernel of this release.
pub fn release(namespace: &Namespace, release: &str) -> Command {
    let mut name = Vec::new();
    for field in ["Linux", "pretended", release] {
        name.extend_from_slice(field.as_bytes());
        name.resize(name.len().next_multiple_of(UTS_FIELD), 0);
    }
    let bytes: String = name.iter().map(|byte| format!("{byte:02x}")).collect();
    let mut command = namespace.command("strace");
    // Its threads, too.
    command.arg("-f");
    inject(command, "uname", &format!("poke_exit=@arg1={bytes}"))
}

/// netdext, whose first thread gets this error from these calls: `when` is as in strace(1), for example `1` for the first.
pub fn refusal(namespace: &Namespace, call: &str, errno: &str, when: &str) -> Command {
    inject(namespace.command("strace"), call, &format!("error={errno}:when={when}"))
}

/// With `-D` the process that is started is netdext itself, which gets the signals.
fn inject(mut strace: Command, call: &str, what: &str) -> Command {
    strace.args(["-D", "-qq", "-o", "/dev/null", "-e", "signal=none", "-e"]);
    strace.arg(format!("trace={call}")).arg("-e").arg(format!("inject={call}:{what}")).arg(binary());
    strace
}
