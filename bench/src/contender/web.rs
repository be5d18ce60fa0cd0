//! nginx: the web servers that hold each content as a plain file, and one warm connection to the nearest of them, the
//! floor of what any program can reach.

use std::fs;
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::Duration;

use super::{Contender, Content, Scratch};
use crate::client::{Connection, Fetched};
use crate::net::namespace::Namespace;
use crate::process::Process;

pub const PORT: u16 = 8088;

/// nginx in a namespace, serving a folder.
pub struct Nginx {
    process: Process,
    root: PathBuf,
    _data: Scratch,
}

pub fn version() -> Option<String> {
    super::first_line("nginx", &["-v"]).map(|line| line.replace("nginx version: ", ""))
}

impl Nginx {
    /// One of plain files by their names, and of listings of folders.
    pub fn start(namespace: &Namespace, scratch: &Path, address: &str) -> io::Result<Self> {
        let data = Scratch::new(scratch, "nginx")?;
        let root = data.0.join("www");
        fs::create_dir(&root)?;
        Self::serve(namespace, data, root, &format!("{address}:{PORT}"), "autoindex on;")
    }

    /// One of the files in `root`. `rules`: what the server's block says beside where it listens.
    pub fn serve(namespace: &Namespace, data: Scratch, root: PathBuf, listen: &str, rules: &str) -> io::Result<Self> {
        let file = data.0.join("nginx.conf");
        fs::write(&file, config(&data.0, &root, listen, rules))?;
        let mut nginx = namespace.command("nginx");
        nginx.arg("-c").arg(&file).arg("-p").arg(&data.0);
        let process = Process::start_silent("nginx", nginx, &data.0.join("nginx.log"))?;
        std::thread::sleep(Duration::from_millis(200));
        Ok(Self { process, root, _data: data })
    }

    /// Serves `file` under `name`.
    pub fn add(&self, file: &Path, name: &str) -> io::Result<()> {
        fs::copy(file, self.root.join(name)).map(drop)
    }

    /// Serves a listing of the files of `folder` under `name`.
    pub fn add_folder(&self, folder: &Path, name: &str) -> io::Result<()> {
        let to = self.root.join(name);
        fs::create_dir(&to)?;
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            fs::copy(entry.path(), to.join(entry.file_name()))?;
        }
        Ok(())
    }

    pub fn remove(&self, name: &str) {
        let _ = fs::remove_file(self.root.join(name));
    }

    pub fn check(&mut self) -> io::Result<()> {
        if self.process.alive() {
            return Ok(());
        }
        Err(io::Error::other(format!("nginx ended: {}", self.process.last_words())))
    }
}

/// What nginx reads; what it writes goes to `data`.
pub fn config(data: &Path, root: &Path, listen: &str, rules: &str) -> String {
    let (dir, root) = (data.display(), root.display());
    format!(
        "user root;\nworker_processes 1;\ndaemon off;\npid {dir}/pid;\nerror_log {dir}/error.log;\n\
         events {{ worker_connections 512; }}\n\
         http {{ access_log off; sendfile on; keepalive_requests 1000000; keepalive_timeout 1h;\n\
         client_body_temp_path {dir}; proxy_temp_path {dir}; fastcgi_temp_path {dir}; uwsgi_temp_path {dir}; scgi_temp_path {dir};\n\
         server {{ listen {listen}; root {root}; {rules} }} }}\n"
    )
}

type Job = (String, mpsc::SyncSender<io::Result<Fetched>>);

/// One connection to one web server that stays open between fetches, on a thread in the gateway's namespace.
pub struct WarmConnection {
    jobs: mpsc::SyncSender<Job>,
    version: String,
}

impl WarmConnection {
    pub fn new(namespace: &Namespace, host: SocketAddr) -> Self {
        let (jobs, work) = mpsc::sync_channel::<Job>(1);
        let namespace = namespace.clone();
        std::thread::spawn(move || {
            let mut connection = namespace.enter().and_then(|()| {
                let stream = TcpStream::connect_timeout(&host, Duration::from_secs(10))?;
                stream.set_nodelay(true)?;
                Connection::new(stream, host)
            });
            for (path, answer) in work {
                let fetched = match &mut connection {
                    Ok(connection) => connection.get(&path),
                    Err(error) => Err(io::Error::other(error.to_string())),
                };
                let _ = answer.send(fetched);
            }
        });
        Self { jobs, version: version().unwrap_or_else(|| "nginx".to_owned()) }
    }
}

impl Contender for WarmConnection {
    fn name(&self) -> &str {
        "nginx-warm"
    }

    fn version(&self) -> &str {
        &self.version
    }

    fn remark(&self) -> Option<&'static str> {
        Some("a plain file over one warm TCP connection to the provider with the highest rate; no content addressing")
    }

    fn fetch(&mut self, content: &Content) -> io::Result<Fetched> {
        let (answer, fetched) = mpsc::sync_channel(1);
        self.jobs
            .send((format!("/{}", content.name), answer))
            .map_err(|_| io::Error::other("the connection's thread ended"))?;
        fetched.recv().map_err(io::Error::other)?
    }

    fn cpu(&self) -> Option<Duration> {
        None
    }

    fn peak_memory(&self) -> Option<u64> {
        None
    }

    fn check(&mut self) -> io::Result<()> {
        Ok(())
    }
}
