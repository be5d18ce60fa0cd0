//! The shaders that are shipped, as the page loads them and as `tidegate gpu bench` runs them.

use super::{Workgroup, Workload};

/// One WGSL file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shader {
    pub workload: Workload,
    /// Under `/static/`.
    pub path: &'static str,
    pub source: &'static str,
}

pub const SHADERS: [Shader; 2] = [
    Shader {
        workload: Workload::LogMel,
        path: "webgpu/log_mel.wgsl",
        source: include_str!("../../static/webgpu/log_mel.wgsl"),
    },
    Shader {
        workload: Workload::Attention,
        path: "webgpu/attention.wgsl",
        source: include_str!("../../static/webgpu/attention.wgsl"),
    },
];

impl Shader {
    pub fn of(workload: Workload) -> Self {
        match workload {
            Workload::LogMel => SHADERS[0],
            Workload::Attention => SHADERS[1],
        }
    }

    /// The source for one shape of workgroup. A salt that was not used before makes every compiler cache miss; 0 is
    /// taken as 1, because the shader compares the salt with a 0.
    pub fn specialised(&self, workgroup: Workgroup, salt: u32) -> String {
        let mut source = self.source.to_owned();
        let values = [("WG_X", workgroup.x), ("WG_Y", workgroup.y), ("WG_Z", workgroup.z), ("SALT", salt.max(1))];
        for (name, value) in values {
            let declaration = format!("const {name}: u32 = ");
            let Some(start) = source.find(&declaration).map(|at| at + declaration.len()) else { continue };
            let Some(length) = source[start..].find(';') else { continue };
            source.replace_range(start..start + length, &format!("{value}u"));
        }
        source
    }
}

#[cfg(test)]
mod tests {
    use super::super::SWEEP;
    use super::*;

    fn validate(source: &str) -> naga::Module {
        let module = naga::front::wgsl::parse_str(source).unwrap_or_else(|e| panic!("{}", e.emit_to_string(source)));
        let mut validator =
            naga::valid::Validator::new(naga::valid::ValidationFlags::all(), naga::valid::Capabilities::empty());
        validator.validate(&module).unwrap_or_else(|e| panic!("{}", e.emit_to_string(source)));
        module
    }

    /// Bytes of workgroup memory that a module declares.
    fn workgroup_bytes(module: &naga::Module) -> u32 {
        let mut layouter = naga::proc::Layouter::default();
        layouter.update(module.to_ctx()).unwrap();
        module
            .global_variables
            .iter()
            .filter(|(_, variable)| variable.space == naga::AddressSpace::WorkGroup)
            .map(|(_, variable)| layouter[variable.ty].size)
            .sum()
    }

    #[test]
    fn every_shipped_shader_is_valid_as_it_stands() {
        let dir = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("static/webgpu");
        let mut files = 0;
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|ext| ext == "wgsl") {
                validate(&std::fs::read_to_string(&path).unwrap());
                let name = format!("webgpu/{}", path.file_name().unwrap().to_string_lossy());
                assert!(SHADERS.iter().any(|shader| shader.path == name), "{name} is in no list");
                files += 1;
            }
        }
        assert_eq!(files, SHADERS.len());
    }

    /// WebGPU §3.6.2 default limits: 256 invocations, 16,384 bytes of workgroup storage, 8 storage buffers.
    #[test]
    fn every_shape_of_the_sweep_is_valid_within_the_default_limits() {
        for shader in SHADERS {
            for workgroup in SWEEP {
                let module = validate(&shader.specialised(workgroup, 7));
                let [x, y, z] = module.entry_points[0].workgroup_size;
                assert_eq!((x, y, z), (workgroup.x, workgroup.y, workgroup.z));
                assert!(x * y * z <= 256 && x <= 256 && y <= 256 && z <= 64);
                assert!(workgroup_bytes(&module) <= 16_384, "{} {workgroup}", shader.path);
            }
        }
    }

    #[test]
    fn a_salt_changes_the_compiled_code_and_is_never_zero() {
        let shader = Shader::of(Workload::Attention);
        let text = shader.specialised(SWEEP[0], 0);
        assert!(text.contains("const SALT: u32 = 1u;"));
        assert!(shader.specialised(SWEEP[0], 99).contains("const SALT: u32 = 99u;"));
    }

    #[test]
    fn a_broken_shader_is_refused_by_the_validator() {
        let broken = SHADERS[0].source.replace("re[i] = sample;", "re[i] = vec2<f32>(sample);");
        assert!(naga::front::wgsl::parse_str(&broken).map_or(true, |module| {
            naga::valid::Validator::new(naga::valid::ValidationFlags::all(), naga::valid::Capabilities::empty())
                .validate(&module)
                .is_err()
        }));
    }
}
