package deploytest

import (
	"bytes"
	"context"
	"debug/elf"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// image is what the Dockerfile makes.
type image struct {
	root        string // the directory with its files
	environment map[string]string
	user        string
	directory   string
	entrypoint  []string
	command     []string
	healthcheck []string
}

// stage is one FROM of the Dockerfile while it is carried out.
type stage struct {
	image
	dirs map[string]string // outside of the base: directories of the stage, by where it sees them
}

// build carries out the Dockerfile as docker build does, without a daemon. The
// machine itself stands for the base image of Go: what a stage writes goes to
// directories of its own.
func build(ctx context.Context, t *testing.T, into string) image {
	t.Helper()
	sandboxed(t)
	stages, at, name := map[string]*stage{}, (*stage)(nil), ""
	for _, line := range instructions(string(readFile(t, "Dockerfile"))) {
		word, rest, _ := strings.Cut(line, " ")
		switch word {
		case "FROM":
			base, alias, _ := strings.Cut(rest, " AS ")
			name = alias
			at = &stage{image: image{root: filepath.Join(into, "stage"+strconv.Itoa(len(stages))), environment: map[string]string{}}, dirs: map[string]string{}}
			require.NoError(t, os.MkdirAll(at.root, 0o755))
			stages[name] = at
			if alias == "" {
				require.Equal(t, "scratch", base, "the image is to hold nothing but what the stages before it make")
			} else {
				require.Regexp(t, `^golang:1\.26`, base, "the version of go.mod")
				at.own("/src")
				at.own("/out")
			}
		case "WORKDIR":
			at.directory = rest
		case "COPY":
			at.copy(t, stages, rest)
		case "RUN":
			at.run(ctx, t, rest)
		case "ENV":
			key, value, _ := strings.Cut(rest, "=")
			at.environment[key] = value
		case "USER":
			at.user = rest
		case "HEALTHCHECK":
			_, command, _ := strings.Cut(rest, "CMD ")
			at.healthcheck = words(t, command)
		case "ENTRYPOINT":
			at.entrypoint = words(t, rest)
		case "CMD":
			at.command = words(t, rest)
		case "EXPOSE":
		default:
			t.Fatalf("the test does not know %s: teach it", word)
		}
	}
	require.Empty(t, name, "the last stage is the image")
	return at.image
}

// instructions gives the Dockerfile's lines, comments removed and continued lines joined.
func instructions(text string) []string {
	text = regexp.MustCompile(`(?m)^#.*\n`).ReplaceAllString(text, "")
	text = strings.ReplaceAll(text, "\\\n", " ")
	return slices.DeleteFunc(strings.Split(text, "\n"), func(line string) bool { return strings.TrimSpace(line) == "" })
}

func words(t *testing.T, text string) (list []string) {
	t.Helper()
	require.NoError(t, json.Unmarshal([]byte(text), &list), "the form of a list: there is no shell in the image")
	return list
}

func (s *stage) own(dir string) { s.dirs[dir] = filepath.Join(s.root, dir) }

// host gives the file of this machine that a stage sees at a path.
func (s *stage) host(path string) string {
	if len(s.dirs) == 0 { // from scratch
		return filepath.Join(s.root, path)
	}
	for dir := range s.dirs {
		if path == dir || strings.HasPrefix(path, dir+"/") {
			return filepath.Join(s.root, path)
		}
	}
	return path
}

func (s *stage) copy(t *testing.T, stages map[string]*stage, arguments string) {
	t.Helper()
	fields := strings.Fields(arguments)
	from, owner := "", ""
	for len(fields) > 0 && strings.HasPrefix(fields[0], "--") {
		key, value, _ := strings.Cut(strings.TrimPrefix(fields[0], "--"), "=")
		switch key {
		case "from":
			from = value
		case "chown":
			owner = value
		default:
			t.Fatalf("COPY --%s: teach the test", key)
		}
		fields = fields[1:]
	}
	target := fields[len(fields)-1]
	if strings.HasPrefix(target, ".") {
		target = s.directory
	}
	target = s.host(target)
	for _, source := range fields[:len(fields)-1] {
		switch {
		case from != "":
			require.Contains(t, stages, from)
			require.NoError(t, os.MkdirAll(filepath.Dir(target), 0o755))
			command(t, "cp", "-a", "--dereference", stages[from].host(source), target)
		case source == ".":
			s.context(t, target)
		default:
			require.NoError(t, os.MkdirAll(target, 0o755))
			command(t, "cp", filepath.Join(root, source), target)
		}
	}
	if owner != "" {
		command(t, "chown", owner, target)
	}
}

// context copies what a builder is sent: what git has and .dockerignore does not name.
func (s *stage) context(t *testing.T, target string) {
	t.Helper()
	top, err := filepath.Abs(root)
	require.NoError(t, err)
	var ignored []string
	for line := range strings.FieldsSeq(regexp.MustCompile(`(?m)^#.*\n`).ReplaceAllString(string(readFile(t, ".dockerignore")), "")) {
		pattern := "./" + line
		if after, deep := strings.CutPrefix(line, "**/"); deep {
			pattern = after
		}
		ignored = append(ignored, "--exclude="+pattern)
	}
	tracked := command(t, "git", "-C", top, "ls-files", "--cached", "--others", "--exclude-standard")
	present := slices.DeleteFunc(strings.Fields(tracked), func(name string) bool {
		_, err := os.Lstat(filepath.Join(top, name))
		return err != nil
	})
	list := filepath.Join(s.root, "context")
	require.NoError(t, os.WriteFile(list, []byte("./"+strings.Join(present, "\n./")+"\n"), 0o600))
	require.NoError(t, os.MkdirAll(target, 0o755))
	archive := filepath.Join(s.root, "context.tar")
	command(t, "tar", append(append([]string{"-C", top, "--wildcards"}, ignored...), "-cf", archive, "-T", list)...)
	command(t, "tar", "-C", target, "-xf", archive)
}

func (s *stage) run(ctx context.Context, t *testing.T, line string) {
	t.Helper()
	arguments := []string{"--ro-bind", "/", "/", "--dev", "/dev", "--proc", "/proc", "--die-with-parent"}
	for dir, at := range s.dirs {
		require.NoError(t, os.MkdirAll(at, 0o755))
		arguments = append(arguments, "--bind", at, dir)
	}
	for _, variable := range []string{"GOCACHE", "GOMODCACHE"} {
		dir := strings.TrimSpace(command(t, "go", "env", variable))
		arguments = append(arguments, "--bind", dir, dir)
	}
	temporary := filepath.Join(s.root, "tmp")
	require.NoError(t, os.MkdirAll(temporary, 0o755))
	arguments = append(arguments, "--setenv", "TMPDIR", temporary, "--bind", temporary, temporary, "--chdir", s.directory, "/bin/sh", "-ec", line)
	out, err := exec.CommandContext(ctx, "bwrap", withRoots(t, arguments, s.dirs)...).CombinedOutput()
	require.NoError(t, err, "RUN %s\n%s", line, out)
}

// withRoots makes the mount points that this machine's own root does not have.
func withRoots(t *testing.T, arguments []string, dirs map[string]string) []string {
	t.Helper()
	entries, err := os.ReadDir("/")
	require.NoError(t, err)
	base := []string{"--tmpfs", "/"}
	for _, e := range entries {
		path := "/" + e.Name()
		if _, own := dirs[path]; own || e.Name() == "proc" || e.Name() == "dev" {
			continue
		}
		if target, err := os.Readlink(path); err == nil {
			base = append(base, "--symlink", target, path)
		} else {
			base = append(base, "--ro-bind", path, path)
		}
	}
	return append(base, arguments[3:]...)
}

// openDir is a directory that users without rights can look into.
func openDir(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	require.NoError(t, os.Chmod(filepath.Dir(dir), 0o755))
	require.NoError(t, os.Chmod(dir, 0o755))
	return dir
}

func command(t *testing.T, name string, arguments ...string) string {
	t.Helper()
	var out, problem bytes.Buffer
	cmd := exec.Command(name, arguments...)
	cmd.Stdout, cmd.Stderr = &out, &problem
	require.NoError(t, cmd.Run(), "%s %v\n%s", name, arguments, problem.String())
	return out.String()
}

// TestImage carries out the Dockerfile and runs what it makes as a container
// does: no root, nothing to write to, nothing but the image's own files.
func TestImage(t *testing.T) {
	ctx := t.Context()
	made := build(ctx, t, openDir(t))

	program := filepath.Join(made.root, "usr/local/bin/processor")
	file, err := elf.Open(program)
	require.NoError(t, err)
	defer file.Close()
	libraries, err := file.ImportedLibraries()
	require.NoError(t, err)
	require.Empty(t, libraries, "the program is not static")
	require.Nil(t, file.Section(".interp"), "the program needs a loader")

	var files []string
	var size int64
	require.NoError(t, filepath.WalkDir(made.root, func(path string, d os.DirEntry, err error) error {
		require.NoError(t, err)
		if !d.IsDir() {
			info, err := d.Info()
			require.NoError(t, err)
			size += info.Size()
			files = append(files, strings.TrimPrefix(path, made.root))
		}
		return nil
	}))
	require.ElementsMatch(t, []string{"/usr/local/bin/processor", "/etc/ssl/certs/ca-certificates.crt"}, files)
	require.Less(t, size, int64(60<<20))
	t.Logf("the image holds %d MB", size>>20)
	require.Equal(t, "65532:65532", made.user)

	c := container{image: made}
	out, err := c.run(ctx, t, nil, "version").CombinedOutput()
	require.NoError(t, err, "%s", out)
	require.Contains(t, string(out), "processor ")
	out, err = c.run(ctx, t, nil, "doctor-of-nothing").CombinedOutput()
	require.Error(t, err, "%s", out)

	// Without a server the process would make one under /data, which is not
	// writable here: it says so and ends.
	out, err = c.run(ctx, t, nil, made.command...).CombinedOutput()
	require.Error(t, err)
	require.Contains(t, string(out), "read-only file system", "%s", out)
	// It is ready to answer that it is not: nothing serves.
	out, err = c.exec(ctx, t, nil, made.healthcheck).CombinedOutput()
	require.Error(t, err)
	require.Contains(t, string(out), "asking whether the process is ready", "%s", out)
}

// container is an image that runs somewhere.
type container struct {
	image
	network     string            // the network namespace; "" is one with nothing in it
	mounts      map[string]string // read-only files, by where it sees them
	volumes     map[string]string // directories that it may write to
	environment map[string]string
}

// run gives the command of the image's entry point with arguments.
func (c container) run(ctx context.Context, t *testing.T, extra []string, arguments ...string) *exec.Cmd {
	t.Helper()
	return c.exec(ctx, t, extra, append(slices.Clone(c.entrypoint), arguments...))
}

// exec gives a command that sees the image's files, read-only, and nothing of
// this machine, with no rights beyond those of its user.
func (c container) exec(ctx context.Context, t *testing.T, extra, words []string) *exec.Cmd {
	t.Helper()
	var args []string
	if c.network != "" {
		args = append(args, "ip", "netns", "exec", c.network)
	}
	if c.user != "" {
		user, group, _ := strings.Cut(c.user, ":")
		args = append(args, "setpriv", "--reuid="+user, "--regid="+group, "--clear-groups")
	}
	args = append(args, "bwrap", "--die-with-parent", "--unshare-pid", "--unshare-ipc", "--cap-drop", "ALL", "--tmpfs", "/")
	if c.user != "" {
		args = append(args, "--unshare-user")
	}
	if c.network == "" {
		args = append(args, "--unshare-net")
	}
	entries, err := os.ReadDir(c.root)
	require.NoError(t, err)
	for _, e := range entries {
		args = append(args, "--dir", "/"+e.Name())
		below, err := os.ReadDir(filepath.Join(c.root, e.Name()))
		require.NoError(t, err)
		for _, b := range below { // a level below, so that mount points fit beside it
			args = append(args, "--ro-bind", filepath.Join(c.root, e.Name(), b.Name()), "/"+e.Name()+"/"+b.Name())
		}
	}
	for target, source := range c.mounts {
		args = append(args, "--ro-bind", source, target)
	}
	for target, source := range c.volumes {
		args = append(args, "--bind", source, target)
	}
	args = append(args, extra...)
	args = append(args, "--proc", "/proc", "--dev", "/dev", "--remount-ro", "/", "--clearenv")
	for _, environment := range []map[string]string{c.image.environment, c.environment} {
		for key, value := range environment {
			args = append(args, "--setenv", key, value)
		}
	}
	if c.directory != "" {
		args = append(args, "--chdir", c.directory)
	}
	args = append(append(args, "--"), words...)
	return exec.CommandContext(ctx, args[0], args[1:]...)
}

// sandboxed skips a test that the machine cannot run, and fails it where it must run.
func sandboxed(t *testing.T) {
	t.Helper()
	if os.Getenv("PROCESSOR_DEPLOY") == "" {
		t.Skip("set PROCESSOR_DEPLOY=1, as root, with what .ci/deploy installs")
	}
	require.Zero(t, os.Geteuid(), "namespaces need root")
	for _, name := range []string{"bwrap", "setpriv", "ip", "unshare", "dnsmasq", "prometheus", "promtool"} {
		_, err := exec.LookPath(name)
		require.NoError(t, err, "%s: .ci/deploy installs it", name)
	}
}
