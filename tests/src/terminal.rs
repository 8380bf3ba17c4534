//! A program in a pseudo-terminal, and what is on its screen.

use std::fs::File;
use std::io::{Read, Write};
use std::num::NonZeroU16;
use std::process::{Child, Command, ExitStatus};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use rustix::pty::{OpenptFlags, grantpt, ioctl_tiocgptpeer, openpt, unlockpt};
use rustix::termios::{LocalModes, Winsize, tcgetattr, tcsetwinsize};

use crate::{patiently, wait_until};

/// How long a program may take to show something, or to end.
const WITHIN: Duration = Duration::from_secs(15);

type Screen = Arc<Mutex<vt100::Parser>>;

/// A program that believes to be in a terminal; dropping it kills it.
pub struct Terminal {
    child: Child,
    /// The user's end.
    keyboard: File,
    /// The program's end, kept open so that its modes can be looked at after the program has ended.
    program_end: File,
    screen: Screen,
    reader: Option<JoinHandle<()>>,
}

impl Terminal {
    /// Starts a program in a terminal of that size, which becomes its controlling terminal.
    ///
    /// # Panics
    /// It can't be started; `setsid` is not there.
    pub fn start(command: &Command, columns: u16, lines: u16) -> Self {
        let keyboard = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)
            .expect("a pseudo-terminal");
        grantpt(&keyboard).and_then(|()| unlockpt(&keyboard)).expect("the pseudo-terminal is ours");
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let program_end = File::from(ioctl_tiocgptpeer(&keyboard, flags).expect("its other end"));
        let mut whole = Command::new("setsid");
        whole.arg("--ctty").arg(command.get_program()).args(command.get_args()).env("TERM", "xterm-256color");
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => whole.env(name, value),
                None => whole.env_remove(name),
            };
        }
        let end = || program_end.try_clone().expect("a descriptor is free");
        let screen = vt100::Parser::new(not_zero(lines), not_zero(columns), 0);
        let keyboard = File::from(keyboard);
        resize(&keyboard, columns, lines);
        let child = whole.stdin(end()).stdout(end()).stderr(end()).spawn().expect("setsid can be started");
        let screen = Arc::new(Mutex::new(screen));
        let reader = follow(keyboard.try_clone().expect("a descriptor is free"), Arc::clone(&screen));
        Self { child, keyboard, program_end, screen, reader: Some(reader) }
    }

    /// Types.
    ///
    /// # Panics
    /// The terminal is gone.
    pub fn send(&mut self, keys: &str) {
        self.keyboard.write_all(keys.as_bytes()).expect("the terminal takes keys");
    }

    /// Makes it another size.
    ///
    /// # Panics
    /// The terminal is gone.
    pub fn resize(&mut self, columns: u16, lines: u16) {
        lock(&self.screen).screen_mut().set_size(not_zero(lines), not_zero(columns));
        resize(&self.keyboard, columns, lines);
    }

    /// What is on the screen, line by line.
    pub fn text(&self) -> String {
        lock(&self.screen).screen().contents()
    }

    /// Whether the program has taken the whole screen, which it gives back with what was on it before.
    pub fn is_full_screen(&self) -> bool {
        lock(&self.screen).screen().alternate_screen()
    }

    /// Whether lines can be edited and are echoed and the cursor is seen, as a shell leaves a terminal.
    ///
    /// # Panics
    /// The terminal is gone.
    pub fn is_as_a_shell_left_it(&self) -> bool {
        let modes = tcgetattr(&self.program_end).expect("the terminal is there").local_modes;
        let shown = !self.is_full_screen() && !lock(&self.screen).screen().hide_cursor();
        shown && modes.contains(LocalModes::ICANON | LocalModes::ECHO | LocalModes::ISIG)
    }

    /// Waits until the screen is as wanted, and returns it.
    ///
    /// # Panics
    /// It does not become so; the message has what is there.
    #[track_caller]
    pub fn wait_for(&self, what: &str, wanted: impl Fn(&str) -> bool) -> String {
        let until = std::time::Instant::now() + patiently(WITHIN);
        loop {
            let text = self.text();
            if wanted(&text) {
                return text;
            }
            assert!(std::time::Instant::now() < until, "the screen never shows {what}:\n{text}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Sends a signal.
    ///
    /// # Panics
    /// The process is gone.
    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).expect("the program is there to be signalled");
    }

    /// Waits for the end of the program.
    ///
    /// # Panics
    /// It does not end in time.
    #[track_caller]
    pub fn wait(&mut self) -> ExitStatus {
        let status =
            wait_until("the program ends", WITHIN, || self.child.try_wait().expect("it can be waited for"));
        // What it wrote last is still on its way to the screen.
        std::thread::sleep(Duration::from_millis(100));
        status
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // They fail only for a process that has been waited for.
        let _ = self.child.kill();
        let _ = self.child.wait();
        // The reader ends with the last open end of the program's side; this one goes after this function.
        drop(self.reader.take());
    }
}

fn follow(mut keyboard: File, screen: Screen) -> JoinHandle<()> {
    std::thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok(length @ 1..) = keyboard.read(&mut buffer) {
            lock(&screen).process(&buffer[..length]);
        }
    })
}

fn lock(screen: &Screen) -> MutexGuard<'_, vt100::Parser> {
    screen.lock().unwrap_or_else(PoisonError::into_inner)
}

fn resize(terminal: &File, columns: u16, lines: u16) {
    let size = Winsize { ws_row: lines, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    tcsetwinsize(terminal, size).expect("a terminal has a size");
}

fn not_zero(cells: u16) -> NonZeroU16 {
    NonZeroU16::new(cells).expect("a terminal has lines and columns")
}
