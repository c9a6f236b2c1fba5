// Replays recorded calls of a library and compares what they leave in memory: replay LIBRARY RECORDING.
//
// A recording (recording.py) is a row of blocks of memory, pointers between them, and calls with what every block has to
// hold after each. Built for another processor, it shows that the library computes there what it computed where it was
// recorded. Prints the largest difference of each function; exit code 1 if one is beyond its bound.
#include <dlfcn.h>

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <map>
#include <string>
#include <vector>

struct Reader {
    std::vector<char> bytes;
    size_t at = 0;
    explicit Reader(const char* path) {
        std::ifstream file(path, std::ios::binary);
        bytes.assign(std::istreambuf_iterator<char>(file), {});
    }
    void take(void* to, size_t size) {
        if (at + size > bytes.size()) std::fprintf(stderr, "the recording is cut short\n"), std::exit(2);
        std::memcpy(to, bytes.data() + at, size);
        at += size;
    }
    template <class T> T take() {
        T value;
        take(&value, sizeof(T));
        return value;
    }
    int64_t number() { return take<int64_t>(); }
    std::string text() {
        std::string found(number(), ' ');
        take(&found[0], found.size());
        return found;
    }
};

static double value_at(const char* from, const std::string& kind, int64_t index) {
    if (kind == "float32") return ((const float*)from)[index];
    if (kind == "float64") return ((const double*)from)[index];
    if (kind == "int64") return (double)((const int64_t*)from)[index];
    uint32_t bits = (uint32_t)((const uint16_t*)from)[index] << 16;  // bfloat16
    float value;
    std::memcpy(&value, &bits, sizeof(value));
    return value;
}

// The largest difference, as a share of the largest expected value; a NaN on one side alone is infinitely far.
static double difference(const char* found, const char* expected, const std::string& kind, int64_t count) {
    double largest = 0, scale = 0;
    for (int64_t i = 0; i < count; i++) {
        double ours = value_at(found, kind, i), theirs = value_at(expected, kind, i);
        if (ours == theirs || (std::isnan(ours) && std::isnan(theirs))) ours = theirs = std::isfinite(theirs) ? theirs : 0;
        double apart = std::fabs(ours - theirs);
        largest = std::isnan(apart) ? INFINITY : std::max(largest, apart);
        scale = std::max(scale, std::fabs(theirs));
    }
    return scale > 0 ? largest / scale : largest;
}

int main(int count, char** arguments) {
    if (count != 3) return std::fprintf(stderr, "replay LIBRARY RECORDING\n"), 2;
    void* library = dlopen(arguments[1], RTLD_NOW);
    if (!library) return std::fprintf(stderr, "%s\n", dlerror()), 2;
    Reader reader(arguments[2]);
    std::vector<char*> blocks(reader.number());
    for (char*& block : blocks) {
        int64_t size = reader.number();
        block = (char*)std::aligned_alloc(64, (size + 127) / 64 * 64);
        reader.take(block, size);
    }
    for (int64_t left = reader.number(); left; left--) {
        int64_t from = reader.number(), offset = reader.number(), to = reader.number(), target = reader.number();
        char* address = blocks.at(to) + target;
        std::memcpy(blocks.at(from) + offset, &address, sizeof(address));
    }
    std::map<std::string, double> worst;
    bool sound = true;
    for (int64_t calls = reader.number(); calls; calls--) {
        std::string name = reader.text();
        int64_t arguments_of[16] = {};
        int64_t many = reader.number();
        for (int64_t i = 0; i < many; i++) {
            bool is_block = reader.number();
            int64_t value = reader.number();
            arguments_of[i] = is_block && value >= 0 ? (int64_t)blocks.at(value) : is_block ? 0 : value;
        }
        float real = reader.take<float>();
        // Whole numbers and pointers are passed in one row of registers, a float in another, so one type serves all.
        auto function = (void (*)(int64_t, int64_t, int64_t, int64_t, int64_t, int64_t, int64_t, int64_t, int64_t, int64_t,
                                  int64_t, int64_t, int64_t, int64_t, int64_t, int64_t, float))dlsym(library, name.c_str());
        if (!function) return std::fprintf(stderr, "%s\n", dlerror()), 2;
        int64_t* a = arguments_of;
        function(a[0], a[1], a[2], a[3], a[4], a[5], a[6], a[7], a[8], a[9], a[10], a[11], a[12], a[13], a[14], a[15], real);
        for (int64_t checks = reader.number(); checks; checks--) {
            int64_t block = reader.number(), offset = reader.number();
            std::string kind = reader.text(), expected = reader.text();
            double bound = reader.take<double>();
            int64_t size = kind == "bfloat16" ? 2 : kind == "float32" ? 4 : 8;
            double apart = difference(blocks.at(block) + offset, expected.data(), kind, expected.size() / size);
            worst[name] = std::max(worst[name], apart);
            if (apart > bound) sound = false, std::printf("%s: %s, %g apart, bound %g\n", name.c_str(), kind.c_str(), apart, bound);
        }
    }
    for (auto& [name, apart] : worst) std::printf("%s %.3g\n", name.c_str(), apart);
    return sound ? 0 : 1;
}
