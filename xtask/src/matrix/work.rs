//! The guests of a run: what each of them has to do, and as many of them at a time as there are processors.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context, ensure};

use crate::matrix::archive::Archive;
use crate::matrix::boot::Bootable;
use crate::matrix::kernels::{Kernel, Resolved};
use crate::matrix::plan::{self, Program};
use crate::matrix::report::{self, GuestReport, KernelReport};
use crate::matrix::{guest, image};
use crate::shell::{self, Built};

/// Each has a gigabyte of memory.
const MOST_GUESTS: usize = 8;

/// What all guests of a run have in common.
pub struct Work<'a> {
    directory: PathBuf,
    disk: PathBuf,
    tests: Vec<&'a Built>,
    load: bool,
    filters: &'a [String],
    at_a_time: usize,
}

/// One guest.
struct Job<'a> {
    kernel: usize,
    name: String,
    bootable: &'a Bootable,
    programs: Vec<Program>,
    script: String,
    log: PathBuf,
}

impl<'a> Work<'a> {
    /// Makes the disk of what has been built.
    ///
    /// # Errors
    /// netdext is not among it; a file can't be written.
    pub fn new(
        directory: &Path,
        built: &'a [Built],
        load: bool,
        filters: &'a [String],
    ) -> anyhow::Result<Self> {
        let netdext: Vec<_> = shell::NETDEXT_PROGRAMS
            .iter()
            .filter_map(|name| built.iter().find(|built| built.name == *name && !built.is_test))
            .collect();
        ensure!(netdext.len() == shell::NETDEXT_PROGRAMS.len(), "cargo built no netdext");
        let tests: Vec<_> = built.iter().filter(|built| plan::is_planned(built)).collect();
        let disk = image::make(directory, &netdext, &tests)?;
        let logs = directory.join("logs");
        let _ = fs::remove_dir_all(&logs);
        fs::create_dir_all(&logs).with_context(|| format!("make {}", logs.display()))?;
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        let at_a_time = processors.min(MOST_GUESTS);
        Ok(Self { directory: directory.to_owned(), disk, tests, load, filters, at_a_time })
    }

    /// Runs all guests of all kernels.
    ///
    /// # Errors
    /// A kernel can't be fetched or prepared; a guest can't be started.
    pub fn run(
        &self,
        kernels: &[Kernel],
        resolved: &[Resolved],
        archive: &Archive,
    ) -> anyhow::Result<Vec<KernelReport>> {
        let bootables = resolved.iter().map(|resolved| {
            let files = resolved.fetch(archive)?;
            Bootable::make(&self.directory.join("kernels"), &resolved.version.release(), &files)
        });
        let bootables: Vec<_> = bootables.collect::<anyhow::Result<_>>()?;
        let mut jobs = Vec::new();
        for (number, kernel) in kernels.iter().enumerate() {
            jobs.extend(self.jobs(number, kernel, &resolved[number], &bootables[number])?);
        }
        let reports = self.run_all(&jobs)?;
        let mut kernels: Vec<_> =
            resolved.iter().map(|resolved| KernelReport::new(resolved, archive)).collect();
        for (job, report) in jobs.iter().zip(reports) {
            kernels[job.kernel].guests.push(report);
        }
        Ok(kernels)
    }

    /// The guests of a kernel: its programs are shared out, so that also one kernel alone uses all processors.
    fn jobs<'b>(
        &self,
        number: usize,
        kernel: &Kernel,
        resolved: &Resolved,
        bootable: &'b Bootable,
    ) -> anyhow::Result<Vec<Job<'b>>> {
        let names: Vec<_> = self.tests.iter().map(|test| test.name.as_str()).collect();
        let package = &self.tests.first().context("there is no test program")?.package;
        let programs = plan::programs(kernel.expectation, self.load, &names, self.filters);
        let shares = plan::shared_out(&programs, self.at_a_time);
        let version = &resolved.version;
        let jobs = shares.into_iter().enumerate().map(|(share, programs)| {
            let name = if share == 0 { version.to_string() } else { format!("{version}-{}", share + 1) };
            let script = plan::script(&programs, kernel.expectation, package, self.filters, &names);
            let log = self.directory.join("logs").join(format!("{name}.log"));
            Job { kernel: number, name, bootable, programs, script, log }
        });
        Ok(jobs.collect())
    }

    fn run_all(&self, jobs: &[Job<'_>]) -> anyhow::Result<Vec<GuestReport>> {
        let next = AtomicUsize::new(0);
        let run_what_is_left = || {
            let mut reports = Vec::new();
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                let Some(job) = jobs.get(number) else { return reports };
                reports.push((number, self.run_one(job)));
            }
        };
        let mut reports = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..self.at_a_time).map(|_| scope.spawn(run_what_is_left)).collect();
            let reports = threads.into_iter().flat_map(|thread| thread.join().expect("it does not panic"));
            reports.collect::<Vec<_>>()
        });
        reports.sort_by_key(|(number, _)| *number);
        reports.into_iter().map(|(_, report)| report).collect()
    }

    fn run_one(&self, job: &Job<'_>) -> anyhow::Result<GuestReport> {
        println!("Linux {}: booting, {}", job.name, job.log.display());
        let outcome = guest::run(job.bootable, &self.disk, &job.script, &job.programs, &job.log, |result| {
            report::print_result(&job.name, result);
        })
        .with_context(|| format!("run a guest with Linux {}", job.name))?;
        let report = GuestReport::new(&job.programs, outcome, &job.log);
        report.print_trouble(&job.name);
        Ok(report)
    }
}
