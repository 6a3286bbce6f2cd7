//! The commands.

use std::fmt;
use std::io::Read;

use serde_json::{Value, json};

use crate::admin::{self, Request};
use crate::cli::{CheckArgs, Cli, Client, Command, ConfigCommand, ImageCommand, NetworkCommand};
use crate::config::{self, Problems};
use crate::{output, serve};

/// Why a command failed, and with which exit code.
#[derive(Debug)]
pub(crate) enum Failure {
    /// Usage or configuration.
    Usage(String),
    /// Everything else.
    Failed(String),
}

impl Failure {
    pub(crate) fn code(&self) -> u8 {
        match self {
            Self::Failed(_) => 1,
            Self::Usage(_) => 2,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Usage(text) | Self::Failed(text) => f.write_str(text),
        }
    }
}

impl From<Problems> for Failure {
    fn from(problems: Problems) -> Self {
        Self::Usage(problems.to_string())
    }
}

impl From<String> for Failure {
    fn from(text: String) -> Self {
        Self::Failed(text)
    }
}

type Outcome = Result<(), Failure>;

/// Carries out a command.
pub(crate) fn run(cli: Cli) -> Outcome {
    match cli.command {
        Command::Daemon(args) => {
            let settings = config::load(&args)?;
            serve::run(settings).map_err(|error| Failure::Failed(format!("{error:#}")))
        }
        Command::Config(command) => configuration(command),
        Command::Check(args) => check(&args),
        Command::Status(client) => status(&client),
        Command::Version(client) => version(&client),
        Command::Image(command) => image(command),
        Command::Network(command) => network(command),
        Command::Completion { shell } => {
            let mut command = <Cli as clap::CommandFactory>::command();
            clap_complete::generate(shell, &mut command, "berth", &mut std::io::stdout());
            Ok(())
        }
    }
}

fn configuration(command: ConfigCommand) -> Outcome {
    match command {
        ConfigCommand::Default => output::print(config::DEFAULT_TEXT.trim_end()),
        ConfigCommand::Check(args) => {
            let (file, source) = config::read(args.config.as_deref())?;
            config::check(file, source.clone())?;
            if args.json {
                output::json(&json!({ "source": source, "problems": [] }));
            } else {
                output::print(&format!("{source}: fine"));
            }
        }
        ConfigCommand::Show(args) => {
            let (file, source) = config::read(args.config.as_deref())?;
            let settings = config::check(file, source)?;
            let shown = settings.file.redacted();
            let failed = |error: &dyn fmt::Display| Failure::Failed(format!("write the settings: {error}"));
            if args.json {
                output::json(&serde_json::to_value(&shown).map_err(|e| failed(&e))?);
            } else {
                output::print(toml::to_string(&shown).map_err(|e| failed(&e))?.trim_end());
            }
        }
    }
    Ok(())
}

fn ask(client: &Client, request: Request) -> Result<Value, Failure> {
    admin::ask(&client.socket, request, None, &mut |_| {}).map_err(Failure::Failed)
}

fn check(args: &CheckArgs) -> Outcome {
    let value = ask(&args.client, Request::Check { repair: args.repair })?;
    if args.client.json {
        output::json(&value);
    }
    let list = |key: &str| -> Vec<String> {
        value[key].as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
    };
    let (degraded, problems) = (list("degraded"), list("problems"));
    if !args.client.json {
        for sentence in &degraded {
            output::print(&format!("note: {sentence}"));
        }
        for sentence in &problems {
            output::print(&format!("problem: {sentence}"));
        }
        if problems.is_empty() {
            output::print("the stores are in order");
        }
    }
    if problems.is_empty() || args.repair {
        Ok(())
    } else {
        Err(Failure::Failed(format!(
            "{} problems; `berth check --repair` puts right what can be",
            problems.len()
        )))
    }
}

fn status(client: &Client) -> Outcome {
    let value = ask(client, Request::Status)?;
    if client.json {
        output::json(&value);
        return Ok(());
    }
    let text = |key: &str| value[key].as_str().unwrap_or_default().to_owned();
    for key in ["version", "runtime", "network"] {
        output::print(&format!("{key:<12}{}", text(key)));
    }
    for key in ["sandboxes", "containers", "running", "images"] {
        output::print(&format!("{key:<12}{}", value[key]));
    }
    for sentence in value["degraded"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        output::print(&format!("note        {sentence}"));
    }
    Ok(())
}

fn version(client: &Client) -> Outcome {
    let own = env!("CARGO_PKG_VERSION");
    // No daemon is no failure here: the question is about this program first.
    let daemon = ask(client, Request::Version).ok().and_then(|v| v["version"].as_str().map(str::to_owned));
    if client.json {
        output::json(&json!({ "version": own, "daemon": daemon }));
    } else {
        output::print(&format!("berth {own}"));
        output::print(&format!("daemon {}", daemon.as_deref().unwrap_or("not running")));
    }
    Ok(())
}

fn image(command: ImageCommand) -> Outcome {
    match command {
        ImageCommand::Pull { reference, username, password_stdin, client } => {
            let password = if password_stdin { Some(read_password()?) } else { None };
            let mut bars = output::Pull::new(client.json);
            let request = Request::ImagePull { reference, username, password };
            let value = admin::ask(&client.socket, request, None, &mut |layers| bars.show(&layers))?;
            drop(bars);
            print_or(&client, &value, |v| output::print(v["id"].as_str().unwrap_or_default()));
        }
        ImageCommand::List { client } => {
            let value = ask(&client, Request::ImageList)?;
            print_or(&client, &value, image_table);
        }
        ImageCommand::Inspect { image, client } => {
            output::json(&ask(&client, Request::ImageInspect { image })?)
        }
        ImageCommand::Remove { images, client } => {
            let mut removed = Vec::new();
            for image in images {
                let value = ask(&client, Request::ImageRemove { image })?;
                print_or(&client, &Value::Null, |_| {
                    for name in value.as_array().into_iter().flatten().filter_map(Value::as_str) {
                        output::print(&format!("removed {name}"));
                    }
                });
                removed.extend(value.as_array().cloned().unwrap_or_default());
            }
            if client.json {
                output::json(&Value::Array(removed));
            }
        }
        ImageCommand::Load { input, embedded, client } => {
            let request = Request::ImageLoad { embedded };
            let value = match input {
                None => ask(&client, request)?,
                Some(path) => {
                    let mut file = std::fs::File::open(&path)
                        .map_err(|error| Failure::Failed(format!("open {}: {error}", path.display())))?;
                    admin::ask(&client.socket, request, Some(&mut file), &mut |_| {})?
                }
            };
            print_or(&client, &value, |v| {
                for id in v.as_array().into_iter().flatten().filter_map(Value::as_str) {
                    output::print(id);
                }
            });
        }
    }
    Ok(())
}

/// Prints JSON if it is asked for, else calls `people`. `Null` is never printed as JSON.
fn print_or(client: &Client, value: &Value, people: impl FnOnce(&Value)) {
    match (client.json, value) {
        (true, Value::Null) => {}
        (true, value) => output::json(value),
        (false, value) => people(value),
    }
}

fn image_table(value: &Value) {
    let mut rows = Vec::new();
    for image in value.as_array().into_iter().flatten() {
        let id = output::short(image["id"].as_str().unwrap_or_default());
        let size = output::bytes(image["size_bytes"].as_u64().unwrap_or(0));
        let tags: Vec<&str> =
            image["tags"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        for name in if tags.is_empty() { vec!["<none>"] } else { tags } {
            rows.push(vec![name.to_owned(), id.clone(), size.clone()]);
        }
    }
    output::table(&["NAME", "ID", "SIZE"], &rows);
}

fn read_password() -> Result<String, Failure> {
    let mut text = String::new();
    std::io::stdin()
        .take(64 << 10)
        .read_to_string(&mut text)
        .map_err(|error| Failure::Failed(format!("read the password from standard input: {error}")))?;
    Ok(text.trim_end_matches(['\r', '\n']).to_owned())
}

fn network(command: NetworkCommand) -> Outcome {
    match command {
        NetworkCommand::List { client } => {
            let value = ask(&client, Request::NetworkList)?;
            print_or(&client, &value, |value| {
                let rows: Vec<Vec<String>> = value
                    .as_array()
                    .into_iter()
                    .flatten()
                    .map(|network| {
                        let text = |key: &str| network[key].as_str().unwrap_or_default().to_owned();
                        let plugins: Vec<&str> = network["plugins"]
                            .as_array()
                            .into_iter()
                            .flatten()
                            .filter_map(Value::as_str)
                            .collect();
                        let default = if network["default"] == true { "*" } else { "" };
                        vec![format!("{}{default}", text("name")), plugins.join(","), text("source")]
                    })
                    .collect();
                output::table(&["NAME", "PLUGINS", "SOURCE"], &rows);
            });
        }
        NetworkCommand::Inspect { name, client } => {
            output::json(&ask(&client, Request::NetworkInspect { name })?)
        }
    }
    Ok(())
}
