// Cores: affinity, control groups of both versions, and physical cores.
#include "process/cores.hpp"

#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <iterator>
#include <map>
#include <set>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

namespace oce::core {
namespace {

namespace fs = std::filesystem;

std::string read(const fs::path& path) {
    std::ifstream file(path, std::ios::binary);
    return {std::istreambuf_iterator<char>(file), {}};
}

std::vector<std::string> words_of(const std::string& text) {
    std::istringstream stream(text);
    return {std::istream_iterator<std::string>(stream), {}};
}

bool lists_cpu(const std::string& controllers) {
    return ("," + controllers + ",").find(",cpu,") != std::string::npos;
}

/// Version of the control groups' interface (1 or 2) to this process's path in it; /proc/self/cgroup has number:controllers:path.
std::map<int, std::string> own_groups(const fs::path& root) {
    std::map<int, std::string> groups;
    std::istringstream lines(read(root / "proc/self/cgroup"));
    for (std::string line; std::getline(lines, line);) {
        const std::size_t first = line.find(':');
        const std::size_t second = first == std::string::npos ? first : line.find(':', first + 1);
        if (second == std::string::npos) continue;
        const std::string controllers = line.substr(first + 1, second - first - 1);
        if (line.substr(0, first) == "0" && controllers.empty()) {
            groups[2] = line.substr(second + 1);
        } else if (lists_cpu(controllers)) {
            groups[1] = line.substr(second + 1);
        }
    }
    return groups;
}

/// A path of mountinfo without its escapes, such as \040 for a space.
std::string unescaped(const std::string& path) {
    std::string plain;
    for (std::size_t at = 0; at < path.size(); ++at) {
        if (path[at] == '\\' && at + 3 < path.size()) {
            plain += static_cast<char>(std::stoi(path.substr(at + 1, 3), nullptr, 8));
            at += 3;
        } else {
            plain += path[at];
        }
    }
    return plain;
}

std::optional<double> quota_of(const fs::path& folder, int version) {
    std::vector<std::string> words;
    if (version == 2) {
        words = words_of(read(folder / "cpu.max"));
    } else {
        words = words_of(read(folder / "cpu.cfs_quota_us") + " " + read(folder / "cpu.cfs_period_us"));
    }
    if (words.size() != 2) return {};
    char* end = nullptr;
    const double quota = std::strtod(words[0].c_str(), &end);
    if (*end != '\0') return {};  // "max"
    const double period = std::strtod(words[1].c_str(), &end);
    if (*end != '\0' || period <= 0 || quota <= 0) return {};  // -1: no limit
    return quota / period;
}

/// The quotas of a group and of the groups above it, as far as the mount shows them. A container without its own namespace reads
/// its group's path as it is on the host, and has only the group's folder: there the mount itself is the group.
void add_quotas(const fs::path& root, int version, const std::string& own, const std::string& top, const std::string& mounted,
                std::vector<double>& quotas) {
    const fs::path folder = root / fs::path(mounted).relative_path();
    const fs::path below = fs::path(own).lexically_relative(top);
    std::vector<fs::path> steps{folder};
    if (!below.empty() && *below.begin() != "..") {
        fs::path step = folder;
        for (const fs::path& part : below) steps.push_back(step = step / part);
    }
    for (const fs::path& step : steps) {
        if (const auto quota = quota_of(step, version)) quotas.push_back(*quota);
    }
}

std::set<int> affinity() {
    std::set<int> cpus;
    cpu_set_t set;
    CPU_ZERO(&set);
    if (sched_getaffinity(0, sizeof(set), &set) == 0) {
        for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
            if (CPU_ISSET(cpu, &set)) cpus.insert(cpu);
        }
    }
    for (int cpu = 0; cpus.empty() && cpu < static_cast<int>(std::max(1U, std::thread::hardware_concurrency())); ++cpu)
        cpus.insert(cpu);
    return cpus;
}

int physical_cores(const std::set<int>& cpus) {
    std::set<std::string> cores;
    for (const int cpu : cpus) {
        const std::string name = "cpu" + std::to_string(cpu);
        const std::string siblings = read("/sys/devices/system/cpu/" + name + "/topology/thread_siblings_list");
        cores.insert(siblings.empty() ? name : siblings);
    }
    return std::max<int>(1, static_cast<int>(cores.size()));
}

int limited(int cores) {
    const auto quota = cpu_quota();
    return quota ? std::max(1, std::min(cores, static_cast<int>(std::ceil(*quota)))) : cores;
}

}  // namespace

std::optional<double> cpu_quota(const fs::path& root) {
    const std::map<int, std::string> groups = own_groups(root);
    std::vector<double> quotas;
    std::istringstream lines(read(root / "proc/self/mountinfo"));
    for (std::string line; std::getline(lines, line);) {
        const std::size_t separator = line.find(" - ");
        if (separator == std::string::npos) continue;
        const std::vector<std::string> fields = words_of(line.substr(0, separator));
        const std::vector<std::string> kind = words_of(line.substr(separator + 3));
        if (fields.size() < 5 || kind.empty()) continue;
        const int version = kind[0] == "cgroup2" ? 2 : kind[0] == "cgroup" && lists_cpu(kind.back()) ? 1 : 0;
        const auto own = groups.find(version);
        if (own != groups.end()) add_quotas(root, version, own->second, fields[3], unescaped(fields[4]), quotas);
    }
    if (quotas.empty()) return {};
    return *std::min_element(quotas.begin(), quotas.end());
}

int usable_cores() {
    return limited(static_cast<int>(affinity().size()));
}

int engine_threads() {
    const std::set<int> cpus = affinity();
    const int physical = physical_cores(cpus);
    const int threads = limited(physical);
    // hardware_concurrency counts the affinity, so the machine's CPUs are counted by the system's list.
    const long machine = sysconf(_SC_NPROCESSORS_CONF);
    return static_cast<long>(cpus.size()) == machine && threads == physical ? 0 : threads;
}

}  // namespace oce::core
