// JPEG to pixels with libjpeg, as Pillow sets it up.
#include <algorithm>
#include <csetjmp>
#include <cstddef>
#include <cstdio>
#include <iterator>
// jpeglib.h needs size_t and FILE before it.
#include <jpeglib.h>

#include "image/decode.hpp"

namespace oce::core {
namespace {

// A progressive file of a few bytes a scan makes libjpeg pass over the whole picture for each; cameras and tools write about ten.
constexpr int kMaxScans = 1000;

// libjpeg's rows in one call; it gives at most 2 to 4 at once.
constexpr JDIMENSION kRows = 8;

class JpegReader {
public:
    explicit JpegReader(const Encoded& file) : file_(file), name_(file.name), data_(file.data) {}
    ~JpegReader() { jpeg_destroy_decompress(&info_); }
    JpegReader(const JpegReader&) = delete;
    JpegReader& operator=(const JpegReader&) = delete;

    Pixels read();

private:
    struct Errors {
        jpeg_error_mgr manager;  // first, because libjpeg hands out its address
        std::jmp_buf jump;
        char message[JMSG_LENGTH_MAX];
        bool ended;  // the data end too early
    };

    [[noreturn]] static void fail(j_common_ptr info, const char* message);
    [[noreturn]] static void fail_at_end(j_decompress_ptr info);
    static void set_up_errors(Errors& errors);
    static void set_up_source(jpeg_source_mgr& source, std::string_view data);
    static void limit_scans(j_common_ptr info);
    void open();
    Kind choose_output();
    [[nodiscard]] bool is_complete() const;
    void finish();

    /// Run a step that calls libjpeg. Where it fails, libjpeg jumps back here over frames that have no destructors: a step only
    /// captures references, and makes no objects.
    template <typename Step>
    void guarded(Step step) {
        if (!runs(step)) throw damaged(name_, errors_.message);
    }

    template <typename Step>
    bool runs(Step& step) {
        if (setjmp(errors_.jump) != 0) return false;
        step();
        return true;
    }

    const Encoded& file_;
    const std::string& name_;
    std::string_view data_;
    Errors errors_{};
    jpeg_source_mgr source_{};
    jpeg_progress_mgr progress_{};
    jpeg_decompress_struct info_{};
};

void JpegReader::fail(j_common_ptr info, const char* message) {
    auto* errors = reinterpret_cast<Errors*>(info->err);
    std::snprintf(errors->message, sizeof errors->message, "%s", message);
    std::longjmp(errors->jump, 1);
}

void JpegReader::fail_at_end(j_decompress_ptr info) {
    reinterpret_cast<Errors*>(info->err)->ended = true;
    fail(reinterpret_cast<j_common_ptr>(info), "the file ends too early");
}

void JpegReader::set_up_errors(Errors& errors) {
    jpeg_std_error(&errors.manager);
    errors.manager.output_message = [](j_common_ptr) {};
    errors.manager.error_exit = [](j_common_ptr info) {
        auto* failed = reinterpret_cast<Errors*>(info->err);
        failed->manager.format_message(info, failed->message);
        std::longjmp(failed->jump, 1);
    };
}

void JpegReader::set_up_source(jpeg_source_mgr& source, std::string_view data) {
    source.next_input_byte = reinterpret_cast<const JOCTET*>(data.data());
    source.bytes_in_buffer = data.size();
    source.init_source = [](j_decompress_ptr) {};
    source.term_source = [](j_decompress_ptr) {};
    source.resync_to_restart = jpeg_resync_to_restart;
    source.fill_input_buffer = [](j_decompress_ptr info) -> boolean { fail_at_end(info); };
    source.skip_input_data = [](j_decompress_ptr info, long count) {
        if (count <= 0) return;
        if (static_cast<std::size_t>(count) > info->src->bytes_in_buffer) fail_at_end(info);
        info->src->next_input_byte += count;
        info->src->bytes_in_buffer -= static_cast<std::size_t>(count);
    };
}

void JpegReader::limit_scans(j_common_ptr info) {
    if (info->is_decompressor == 0) return;
    if (reinterpret_cast<j_decompress_ptr>(info)->input_scan_number > kMaxScans) fail(info, "it has more than 1000 scans");
}

void JpegReader::open() {
    set_up_errors(errors_);
    info_.err = &errors_.manager;
    set_up_source(source_, data_);
    guarded([this] {
        jpeg_create_decompress(&info_);
        info_.src = &source_;
        progress_.progress_monitor = limit_scans;
        info_.progress = &progress_;
        jpeg_read_header(&info_, TRUE);
    });
}

Kind JpegReader::choose_output() {
    switch (info_.num_components) {
        case 1:
            info_.out_color_space = JCS_GRAYSCALE;
            return Kind::grey;
        case 3:
            info_.out_color_space = JCS_EXT_RGBX;
            return Kind::rgb;
        case 4:
            info_.out_color_space = JCS_CMYK;
            return Kind::cmyk;
        default:
            throw damaged(name_, "it has " + std::to_string(info_.num_components) + " channels");
    }
}

/// Read what follows the last row. As in Pillow, damage there is an error, and an end that is missing is none.
void JpegReader::finish() {
    auto step = [this] { jpeg_finish_decompress(&info_); };
    if (!runs(step) && (file_.plain || !errors_.ended)) throw damaged(name_, errors_.message);
    if (file_.plain && errors_.manager.num_warnings > 0) throw damaged(name_, "libjpeg warns about it");
}

/// Whether the scans of a progressive file bring all bits of all coefficients. Where they do not, libjpeg guesses the rest from the
/// blocks around, and its releases guess differently.
bool JpegReader::is_complete() const {
    if (info_.progressive_mode == FALSE || info_.coef_bits == nullptr) return true;
    return std::all_of(info_.coef_bits, info_.coef_bits + info_.num_components, [](const int(&bits)[DCTSIZE2]) {
        return std::all_of(std::begin(bits), std::end(bits), [](int missing) { return missing == 0; });
    });
}

Pixels JpegReader::read() {
    open();
    file_.check_size(info_.image_width, info_.image_height);
    const Kind kind = choose_output();
    info_.scale_num = 1;
    info_.scale_denom = static_cast<unsigned>(file_.reduction());
    guarded([this] { jpeg_start_decompress(&info_); });
    if (file_.plain && !is_complete()) throw damaged(name_, "its scans are not complete");
    Pixels pixels(kind, static_cast<int>(info_.output_width), static_cast<int>(info_.output_height));
    pixels.reduction = static_cast<int>(info_.scale_denom);
    guarded([this, &pixels] {
        JSAMPROW rows[kRows];
        while (info_.output_scanline < info_.output_height) {
            const JDIMENSION left = info_.output_height - info_.output_scanline;
            const JDIMENSION count = left < kRows ? left : kRows;
            for (JDIMENSION i = 0; i < count; ++i) rows[i] = pixels.row(info_.output_scanline + i);
            jpeg_read_scanlines(&info_, rows, count);
        }
    });
    finish();
    if (kind == Kind::cmyk) {  // stored inverted, whether Adobe's marker is there or not
        std::uint8_t* end = pixels.row(pixels.height);
        for (std::uint8_t* sample = pixels.data.get(); sample != end; ++sample) *sample = static_cast<std::uint8_t>(~*sample);
    }
    return pixels;
}

}  // namespace

Pixels decode_jpeg(const Encoded& file) {
    JpegReader reader(file);
    return reader.read();
}

}  // namespace oce::core
