//! Arguments, as typed and as `mount(8)` passes them.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, CommandFactory, Parser, Subcommand};

use crate::config::{ConfigErrors, EXIT_USAGE};
use crate::sys::MountFlags;

/// The name under which `mount(8)` starts the helper for `mount -t fuse.s3vol`.
pub(super) const HELPER: &str = "mount.fuse.s3vol";

/// Where Docker looks for the socket of a managed plugin and of one run by hand.
pub(super) const SOCKET: &str = "/run/docker/plugins/s3vol.sock";

#[derive(Debug, Parser)]
#[command(
    name = "s3vol",
    version,
    about = "Docker volumes that live in a bucket: POSIX while in use, plain objects at rest",
    disable_help_subcommand = true
)]
struct CommandLine {
    #[command(subcommand)]
    command: Command,
}

/// What was asked.
#[derive(Debug, Clone, PartialEq, Subcommand)]
pub enum Command {
    /// Serve one volume in the foreground until SIGTERM, SIGINT or umount.
    ///
    /// When it ends, the last line and the exit code say what is left: 0 everything is at rest, or in the bucket
    /// and left to the mount that follows; 3 everything is in the bucket, but some files are not plain objects
    /// yet; 4 something is not in the bucket, and is kept for the next mount on this host; 5 another host took
    /// the volume first.
    Mount(MountArgs),
    /// Show the volumes that this host serves.
    Status(StatusArgs),
    /// Follow what happens to the volumes of this host: mounted, unmounted, degraded, fenced, and so on.
    ///
    /// Those of the plugin, or, with --state or where no plugin answers, those of the processes of one state folder.
    Events(EventsArgs),
    /// Serve volumes to Docker, as its volume plugin.
    ///
    /// Settings come from the environment: S3VOL_URL (where volumes live), S3VOL_STATE (local state, by
    /// default /s3vol/state), S3VOL_MOUNTS (where they are mounted, by default /s3vol/vol), and those in
    /// docs/CONFIGURATION.md. docs/OPERATION.md has a systemd unit.
    Plugin(PluginArgs),
    /// Check a bucket and show which requests it honours.
    Probe(ProbeArgs),
    /// Credentials that volumes use by name (`-o credentials=NAME`): which there are, and what they may do.
    #[command(subcommand)]
    Credentials(CredentialsCommand),
    /// Look for what may be wrong: the kernel, mounts, dockerd, the state folder, the bucket.
    ///
    /// Each line is good, to note, or bad, and says what to do. Without a URL the bucket is that of S3VOL_URL, if it
    /// is set. Objects below .s3vol/probe/, with which the store is tried and measured, are removed again. The exit
    /// code: 0 nothing is bad; 4 something is; 8 it could not be looked at; 64 wrong usage.
    Doctor(DoctorArgs),
    /// Write a volume's metadata to its bucket in a format that other versions of s3vol can read.
    ///
    /// Small volumes do that at every unmount. The volume must not be in use.
    Export(PlaceArgs),
    /// Check a volume: its records against each other and against the objects.
    ///
    /// Only reads, unless --repair is given, and works while the volume is mounted; it then says what it could not
    /// judge. Exit code: 0 clean; 1 repaired; 4 something is left; 8 it could not be checked; 64 wrong usage.
    Fsck(FsckArgs),
    /// Prove what a volume holds against a list of hashes, without the file system.
    ///
    /// Only reads the bucket, with a reader of its own, and works while the volume is mounted; what is not in the
    /// bucket yet does not count. Exit code: 0 every path is as the list says; 4 some are not; 8 the volume could
    /// not be read; 64 wrong usage.
    Verify(VerifyArgs),
    /// Make a new state of a volume from its objects, after the old one was lost.
    ///
    /// Says what would be lost and asks. The old state is kept. The volume must not be in use. Exit code: 0 everything
    /// is there; 4 some files lost something, which is listed; 8 nothing was changed; 64 wrong usage.
    Rebuild(RebuildArgs),
    /// Show or bring back what a host had not synced when another one took its volume over.
    #[command(subcommand)]
    Recovered(RecoveredCommand),
    /// Change options of a volume of Docker's, also while it is mounted.
    ///
    /// Says of each whether it takes effect at once or when the volume is mounted next. Options that are not given
    /// stay as they are. docs/CONFIGURATION.md lists which can be changed.
    Set(SetArgs),
    /// Settle a volume now, and wait until everything is a plain object.
    ///
    /// By name: a volume of Docker's, settled by the plugin of this host. By URL: settled by the process that has it
    /// mounted here; if there is none, the command opens the volume itself, as a mount would. Exit code: 0 everything
    /// is at rest, or stays in motion by choice (settle=never); 3 something is not at rest, and the text says why.
    Settle(SettleArgs),
    /// Read the content of a mounted volume into the cache of this host, before programs need it.
    ///
    /// A path may be a file or a directory of it. Shows progress on a terminal, may be stopped at any time, and what was
    /// read stays. Exit code: 0 everything was read; 4 some files were not, and are listed.
    Warm(WarmArgs),
    /// Take a volume from another host now, without waiting for its lease.
    ///
    /// Says who holds it and what could be lost, asks, and leaves it free for the next mount. A volume of Docker's
    /// is given by its name, and the plugin of this host takes it.
    Takeover(TakeoverArgs),
    /// Put another version of s3vol in the place of the plugin that runs, while containers use its volumes.
    ///
    /// Containers see a short pause and no error. The program is checked and tried first, and if it does not come up the
    /// old one goes on. The new one is used after a restart, too, until another version of the plugin is installed. Exit
    /// code: 0 done; 1 refused or failed, and all is as it was; 64 wrong usage.
    Upgrade(UpgradeArgs),
    /// What this program is and reads, for one that it is to take the place of.
    #[command(hide = true)]
    About,
    /// The driver process of the plugin.
    #[command(hide = true)]
    Driver,
    /// The process of one mounted volume.
    #[command(hide = true)]
    Worker,
    /// Gives back what ended processes have moved into the trash of a folder of volumes.
    #[command(hide = true)]
    Empty { volumes: PathBuf },
    /// Takes the mounts at a path away.
    #[command(hide = true)]
    Umount {
        path: PathBuf,
        /// Nobody serves them any more.
        #[arg(long)]
        dead: bool,
    },
    /// Write the man pages into a folder, for packages.
    #[command(hide = true)]
    Man { folder: PathBuf },
    /// Print completions for a shell, for packages.
    #[command(hide = true)]
    Completions { shell: clap_complete::Shell },
}

/// `s3vol mount`.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct MountArgs {
    #[command(flatten)]
    pub volume: PlaceArgs,
    /// Return once the volume is mounted.
    #[arg(long)]
    pub detach: bool,
    /// An existing directory.
    pub mountpoint: PathBuf,
}

/// A volume by its place.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct PlaceArgs {
    /// Folder for logs and caches [default: /var/lib/s3vol, or below the home directory].
    #[arg(long, value_name = "DIR")]
    pub state: Option<PathBuf>,
    /// An option of the volume, or several with commas; see docs/CONFIGURATION.md.
    #[arg(short, long = "option", value_name = "KEY=VALUE")]
    pub options: Vec<String>,
    /// Where the volume's objects lie, such as s3://bucket/prefix.
    pub url: String,
}

/// A volume by its place or its name, for the tools for bad days.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct VolumeArgs {
    /// Folder for logs and caches [default: /var/lib/s3vol, or below the home directory].
    #[arg(long, value_name = "DIR")]
    pub state: Option<PathBuf>,
    /// With a URL: an option of the volume, or several with commas; see docs/CONFIGURATION.md.
    #[arg(short, long = "option", value_name = "KEY=VALUE")]
    pub options: Vec<String>,
    /// A volume's name, where S3VOL_URL is set, or where its objects lie, such as s3://bucket/prefix.
    #[arg(value_name = "NAME|URL")]
    pub volume: String,
}

/// `s3vol fsck`.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct FsckArgs {
    /// Also read all content, and compare it with checksums and ETags.
    #[arg(long)]
    pub data: bool,
    /// Repair what loses nothing, and ask about the rest. The volume must not be in use.
    #[arg(long)]
    pub repair: bool,
    /// With --repair: do not ask.
    #[arg(long, requires = "repair")]
    pub yes: bool,
    /// Print JSON, for programs.
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub volume: VolumeArgs,
}

/// `s3vol verify`.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct VerifyArgs {
    /// Hashes and paths as sha256sum writes them, relative to the volume; - is the standard input.
    #[arg(long, value_name = "FILE")]
    pub manifest: PathBuf,
    /// Look at plain objects only: for a volume whose state is lost.
    #[arg(long)]
    pub plain: bool,
    /// Show only what is not as the list says.
    #[arg(short, long)]
    pub quiet: bool,
    /// Print one JSON object a line, for programs.
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub volume: VolumeArgs,
}

/// `s3vol rebuild`.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct RebuildArgs {
    /// Do not ask.
    #[arg(long)]
    pub yes: bool,
    #[command(flatten)]
    pub volume: VolumeArgs,
}

/// `s3vol status`.
#[derive(Debug, Clone, PartialEq, Args)]
pub struct StatusArgs {
    /// State folder of the processes to ask [default: /var/lib/s3vol, or below the home directory].
    #[arg(long, value_name = "DIR")]
    pub state: Option<PathBuf>,
    /// Print JSON, for programs.
    #[arg(long)]
    pub json: bool,
    /// Show a table that is refreshed until Ctrl-C: of the plugin's volumes, or, with --state or where no plugin
    /// answers, of those of one state folder.
    #[arg(long)]
    pub watch: bool,
    /// With --watch: the pause between two tables.
    #[arg(long, value_name = "SECONDS", default_value_t = 2.0, requires = "watch")]
    pub interval: f64,
    /// With --watch: end after this many tables.
    #[arg(long, value_name = "TABLES", requires = "watch")]
    pub count: Option<u64>,
    /// With --watch: the plugin's socket, where it is not found by itself.
    #[arg(long, value_name = "PATH", requires = "watch", conflicts_with = "state")]
    pub socket: Option<PathBuf>,
}

/// `s3vol events`.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct EventsArgs {
    /// The folder that the volumes' processes were given.
    #[arg(long, value_name = "DIR")]
    pub state: Option<PathBuf>,
    /// The plugin's socket, where it is not found by itself.
    #[arg(long, value_name = "PATH", conflicts_with = "state")]
    pub socket: Option<PathBuf>,
    /// Begin with the events that are still remembered.
    #[arg(long)]
    pub past: bool,
    /// Print one JSON object a line, for programs.
    #[arg(long)]
    pub json: bool,
}

/// A volume by its name or its place, for whoever asks the process that serves it.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct NamedArgs {
    /// State folder of the processes to ask [default: /var/lib/s3vol, or below the home directory].
    #[arg(long, value_name = "DIR")]
    pub state: Option<PathBuf>,
    /// The plugin's socket, where it is not found by itself.
    #[arg(long, value_name = "PATH")]
    pub socket: Option<PathBuf>,
    /// With a URL: an option of the volume, or several with commas; see docs/CONFIGURATION.md.
    #[arg(short, long = "option", value_name = "KEY=VALUE")]
    pub options: Vec<String>,
    /// A volume's name, or where its objects lie, such as s3://bucket/prefix.
    #[arg(value_name = "NAME|URL")]
    pub volume: String,
}

/// `s3vol set`.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct SetArgs {
    /// The plugin's socket, where it is not found by itself.
    #[arg(long, value_name = "PATH")]
    pub socket: Option<PathBuf>,
    /// An option and its new value, or several with commas.
    #[arg(short, long = "option", value_name = "KEY=VALUE", required = true)]
    pub options: Vec<String>,
    /// The volume's name.
    #[arg(value_name = "NAME")]
    pub volume: String,
}

/// `s3vol settle`.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct SettleArgs {
    #[command(flatten)]
    pub named: NamedArgs,
    /// Wait at most this long; what has begun goes on.
    #[arg(long, value_name = "SECONDS")]
    pub timeout: Option<u64>,
}

/// `s3vol warm`.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct WarmArgs {
    /// State folder of the processes to ask [default: /var/lib/s3vol, or below the home directory].
    #[arg(long, value_name = "DIR")]
    pub state: Option<PathBuf>,
    /// The plugin's socket, where it is not found by itself.
    #[arg(long, value_name = "PATH")]
    pub socket: Option<PathBuf>,
    /// A volume's name, where its objects lie, or a path below a mount (with a slash, such as ./site).
    #[arg(value_name = "NAME|URL|PATH")]
    pub volume: String,
}

/// `s3vol takeover`.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct TakeoverArgs {
    #[command(flatten)]
    pub named: NamedArgs,
    /// Do not ask.
    #[arg(long)]
    pub yes: bool,
}

/// `s3vol plugin`.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct PluginArgs {
    /// The socket to listen on.
    #[arg(long, value_name = "PATH", default_value = SOCKET)]
    pub socket: PathBuf,
    /// The program that was installed, where this is one that took its place.
    #[arg(long, hide = true)]
    pub over: Option<String>,
    /// The descriptor of what the program before left.
    #[arg(long, hide = true)]
    pub go_on: Option<i32>,
    /// Only whether this program could go on.
    #[arg(long, hide = true, requires = "go_on")]
    pub trial: bool,
}

/// `s3vol upgrade`.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct UpgradeArgs {
    /// The new program, as the plugin sees it: for a managed plugin a path below /s3vol.
    #[arg(
        long,
        value_name = "FILE",
        required_unless_present = "status",
        conflicts_with = "status"
    )]
    pub from: Option<PathBuf>,
    /// Only show what runs, and how the last upgrade ended.
    #[arg(long)]
    pub status: bool,
    /// The plugin's socket, where it is not found by itself.
    #[arg(long, value_name = "PATH")]
    pub socket: Option<PathBuf>,
}

/// `s3vol probe`.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct ProbeArgs {
    /// An option of the store: endpoint, region, path_style.
    #[arg(short, long = "option", value_name = "KEY=VALUE")]
    pub options: Vec<String>,
    /// A bucket and a prefix, such as s3://bucket/prefix.
    pub url: String,
}

/// `s3vol doctor`.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct DoctorArgs {
    /// Folder for logs and caches [default: /var/lib/s3vol, or below the home directory].
    #[arg(long, value_name = "DIR")]
    pub state: Option<PathBuf>,
    /// The socket of dockerd, where it is not found by itself.
    #[arg(long, value_name = "PATH")]
    pub docker: Option<PathBuf>,
    /// The plugin's socket, where it is not found by itself.
    #[arg(long, value_name = "PATH")]
    pub socket: Option<PathBuf>,
    /// An option of the store: endpoint, region, path_style.
    #[arg(short, long = "option", value_name = "KEY=VALUE")]
    pub options: Vec<String>,
    /// Print JSON, for programs.
    #[arg(long)]
    pub json: bool,
    /// Write the findings, the status and the events of the volumes here, and the ends of their logs to a new file,
    /// without secrets: for a bug report.
    #[arg(long, value_name = "FILE")]
    pub bundle: Option<PathBuf>,
    /// A bucket and a prefix, such as s3://bucket/prefix.
    pub url: Option<String>,
}

/// `s3vol credentials`. The plugin of this host answers, if there is one: the names are those that it finds.
#[derive(Debug, Clone, PartialEq, Eq, Subcommand)]
pub enum CredentialsCommand {
    /// List the names, their places and what is set there; never a value.
    List {
        /// The plugin's socket, where it is not found by itself.
        #[arg(long, value_name = "PATH")]
        socket: Option<PathBuf>,
        /// Look as `s3vol mount` does for this user, whether there is a plugin or not.
        #[arg(long)]
        here: bool,
    },
    /// Say what the keys of a name may do at a place: list, read, write, delete, tags, multipart.
    ///
    /// Tries it with objects below `.s3vol/probe/` there, which are removed again. Exit code: 0 good; 4 something that
    /// a volume needs is not allowed; 1 the credentials are missing or wrong; 64 wrong usage.
    Check {
        /// The plugin's socket, where it is not found by itself.
        #[arg(long, value_name = "PATH")]
        socket: Option<PathBuf>,
        /// Look as `s3vol mount` does for this user, whether there is a plugin or not.
        #[arg(long)]
        here: bool,
        /// An option of the store: endpoint, region, path_style, readonly.
        #[arg(short, long = "option", value_name = "KEY=VALUE")]
        options: Vec<String>,
        name: String,
        /// Such as s3://bucket/prefix; without it only the place of the keys is looked at.
        url: Option<String>,
    },
}

/// `s3vol recovered`.
#[derive(Debug, Clone, PartialEq, Eq, Subcommand)]
pub enum RecoveredCommand {
    /// List the recoveries of a volume, one line each.
    List(RecoveredVolume),
    /// List the files of one recovery, with sizes.
    Show {
        #[command(flatten)]
        volume: RecoveredVolume,
        /// A name that `list` shows.
        name: String,
    },
    /// Write the files of one recovery into a new folder.
    Restore {
        #[command(flatten)]
        volume: RecoveredVolume,
        /// A name that `list` shows.
        name: String,
        /// The folder to make; it must not exist.
        into: PathBuf,
    },
}

/// The volume that something was recovered of.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct RecoveredVolume {
    /// An option of the volume: endpoint, region, path_style, state_url.
    #[arg(short, long = "option", value_name = "KEY=VALUE")]
    pub options: Vec<String>,
    /// Where the volume's objects lie, such as s3://bucket/prefix.
    pub url: String,
}

/// The command in `args`, or, after it was said what is wrong or what was asked (`--help`), how to
/// exit.
pub fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Command, ExitCode> {
    match try_parse(args) {
        Ok(command) => Ok(command),
        Err(error) => {
            let code = if error.use_stderr() { EXIT_USAGE } else { 0 };
            // The reader of a closed pipe has seen enough.
            drop(error.print());
            Err(ExitCode::from(code))
        }
    }
}

/// What the command line takes, as clap has it.
pub(super) fn command_line() -> clap::Command {
    CommandLine::command()
}

pub(super) fn try_parse(args: impl IntoIterator<Item = OsString>) -> Result<Command, clap::Error> {
    let args: Vec<OsString> = args.into_iter().collect();
    let helper = args
        .first()
        .and_then(|name| std::path::Path::new(name).file_name())
        .is_some_and(|name| name == HELPER);
    let args = if helper { from_helper(args) } else { args };
    CommandLine::try_parse_from(args).map(|line| line.command)
}

/// `mount.fuse.s3vol URL DIR [-sfnv] [-N namespace] [-t type] [-o options]` as `s3vol mount`.
fn from_helper(args: Vec<OsString>) -> Vec<OsString> {
    let mut ours: Vec<OsString> = ["s3vol", "mount", "--detach"].map(OsString::from).into();
    let mut args = args.into_iter().skip(1);
    while let Some(arg) = args.next() {
        match arg.to_str() {
            Some("-N" | "-t") => drop(args.next()),
            Some("-o") => {
                if let Some(options) = args.next() {
                    ours.push("-o".into());
                    ours.push(options);
                }
            }
            Some(flags) if is_flags(flags) => {}
            _ => ours.push(arg),
        }
    }
    ours
}

fn is_flags(arg: &str) -> bool {
    arg.strip_prefix('-').is_some_and(|f| !f.is_empty() && f.chars().all(|c| "sfnv".contains(c)))
}

/// `key=value` texts, several in one with commas.
pub(super) fn options(texts: &[String]) -> Result<BTreeMap<String, String>, ConfigErrors> {
    let mut options = BTreeMap::new();
    for text in texts.iter().flat_map(|t| t.split(',')).map(str::trim).filter(|t| !t.is_empty()) {
        let (name, value) = text.split_once('=').unwrap_or((text, ""));
        let name = if name == "ro" { "readonly" } else { name };
        if options.insert(name.to_owned(), value.to_owned()).is_some() {
            return Err(ConfigErrors::one(name, "given twice"));
        }
    }
    Ok(options)
}

/// [`options`] and what `mount(8)` and fstab may say besides. What the kernel enforces becomes a flag, what
/// every mount of ours has anyway means nothing, and what cannot be had is refused.
pub(super) fn mount_options(
    texts: &[String],
) -> Result<(BTreeMap<String, String>, MountFlags), ConfigErrors> {
    let mut flags = MountFlags::default();
    let mut ours = Vec::new();
    for text in texts.iter().flat_map(|t| t.split(',')).map(str::trim) {
        match text {
            "nosuid" => flags.nosuid = true,
            "suid" => flags.nosuid = false,
            "noexec" => flags.noexec = true,
            "exec" => flags.noexec = false,
            "sync" => flags.sync = true,
            "async" => flags.sync = false,
            // As mount(8) has it.
            "user" | "users" => (flags.nosuid, flags.noexec) = (true, true),
            "owner" | "group" => flags.nosuid = true,
            "dev" | "dirsync" | "strictatime" | "lazytime" => {
                let why = match text {
                    "dev" => "device nodes never work on a volume",
                    "dirsync" => "changes of names are synced by fsync of a file or a directory",
                    _ => "access times are kept as with relatime",
                };
                return Err(ConfigErrors::one(text, format!("not supported: {why}; leave it out")));
            }
            _ if means_nothing(text) => {}
            _ => ours.push(text.to_owned()),
        }
    }
    Ok((options(&ours)?, flags))
}

/// For other programs, or true of every mount of ours.
fn means_nothing(text: &str) -> bool {
    const MEANT_FOR_OTHERS: &[&str] = &[
        "rw",
        "auto",
        "noauto",
        "nofail",
        "_netdev",
        "defaults",
        "nouser",
        "nodev",
        "atime",
        "noatime",
        "diratime",
        "nodiratime",
        "relatime",
        "norelatime",
        "allow_other",
        "default_permissions",
    ];
    let name = text.split_once('=').map_or(text, |(name, _)| name);
    MEANT_FOR_OTHERS.contains(&text)
        || name == "comment"
        || name.starts_with("x-")
        || name.starts_with("X-")
}
