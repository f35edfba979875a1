// A folder in memory for targets whose parser reads a file by its path.
#pragma once

#include <unistd.h>

#include <cstdint>
#include <filesystem>
#include <fstream>
#include <string>

namespace oce::fuzz {

/// A folder that only this process uses; it stays, with one file, when the process ends.
inline const std::filesystem::path& scratch_folder() {
    static const std::filesystem::path folder = [] {
        const std::filesystem::path memory = "/dev/shm";
        const std::filesystem::path base = std::filesystem::is_directory(memory) ? memory : std::filesystem::temp_directory_path();
        std::filesystem::path made = base / ("oce-fuzz-" + std::to_string(getpid()));
        std::filesystem::create_directories(made);
        return made;
    }();
    return folder;
}

/// Write the input as a file of the folder.
inline std::filesystem::path scratch_file(const char* name, const std::uint8_t* data, std::size_t size) {
    std::filesystem::path path = scratch_folder() / name;
    std::ofstream file(path, std::ios::binary | std::ios::trunc);
    file.write(reinterpret_cast<const char*>(data), static_cast<std::streamsize>(size));
    return path;
}

}  // namespace oce::fuzz
